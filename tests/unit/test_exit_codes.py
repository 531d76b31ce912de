from finetune_api.exit_codes import Disposition, Reason, disposition, exit_code, reason_of


def test_every_reason_has_its_own_exit_code_and_comes_back_from_it():
    codes = {reason: exit_code(reason) for reason in Reason}

    assert len(set(codes.values())) == len(Reason)
    assert all(reason_of(code) is reason for reason, code in codes.items())


def test_no_reason_uses_a_code_that_shells_or_signals_own():
    assert all(0 < exit_code(reason) < 126 for reason in Reason)


def test_zero_means_complete_and_a_foreign_code_is_unknown():
    assert reason_of(0) is None
    assert reason_of(137) is Reason.UNKNOWN
    assert reason_of(143) is Reason.PREEMPTED


def test_out_of_memory_adapts_and_a_failed_gate_is_for_the_user():
    assert disposition(Reason.DEVICE_OUT_OF_MEMORY) is Disposition.ADAPT_AND_RETRY
    assert disposition(Reason.GATE_FAILED) is Disposition.USER_MUST_FIX
    assert disposition(Reason.NODE_LOST) is Disposition.RETRY
    assert disposition(Reason.RESTART_LIMIT_EXCEEDED) is Disposition.LIMIT
