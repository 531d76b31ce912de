"""A work folder takes one run at a time; what a killed command left behind is waited for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from finetune_cli.claim import WorkFolderBusy, claimed


def test_a_folder_in_use_is_refused_and_free_again_afterwards(tmp_path: Path):
    with claimed(tmp_path, pytest.fail), pytest.raises(WorkFolderBusy), claimed(tmp_path, pytest.fail):
        pass
    with claimed(tmp_path, pytest.fail):
        pass


def test_a_trainer_that_outlives_its_command_is_waited_for(tmp_path: Path):
    with claimed(tmp_path, pytest.fail) as held:
        trainer = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(held,))
    assert trainer.stdin is not None
    waited: list[bool] = []

    def end() -> None:
        waited.append(trainer.poll() is None)
        trainer.communicate(b"\n")

    with claimed(tmp_path, end) as held:
        assert os.get_inheritable(held)
    assert waited == [True]
