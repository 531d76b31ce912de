"""One process of a run: prepare, prove, train, judge, hand over.

What was measured (threads, number format, micro-batch) is decided once per job, kept in its checkpoints and reused.
"""

import resource
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from finetune_api.base import canonical_json
from finetune_api.names import CHECKPOINTS_DIR, EVALUATION_DIR, REPORT_FILE, TRACKING_DIR
from finetune_api.result import ArtifactRef, CheckpointRef, Result
from finetune_api.run_config import RunConfig, text_digest
from finetune_trainer import artifacts, checkpoint, fence
from finetune_trainer.averaging import averaging
from finetune_trainer.building import build_model, prove
from finetune_trainer.card import CardFacts, model_card
from finetune_trainer.deciding import Deciding
from finetune_trainer.distributed import Group, join_group
from finetune_trainer.errors import ConfigError, Preempted
from finetune_trainer.evaluate import EvaluationStopped, Judge, refer
from finetune_trainer.evaluations import Evaluations
from finetune_trainer.gate import check_gate
from finetune_trainer.hooks import StepHooks
from finetune_trainer.loop import Loop, Parts
from finetune_trainer.methods import Prepared
from finetune_trainer.methods.frozen import begin_behind_frozen
from finetune_trainer.models import parameter_counts
from finetune_trainer.preparation import Prepared as Data
from finetune_trainer.preparation import prepare_data
from finetune_trainer.report.of_run import report_run
from finetune_trainer.reporting import Reporter, open_trackers
from finetune_trainer.runtime import Decision, autocast
from finetune_trainer.stopping import StopFlag

_COLLECTIVE_TIMEOUT_S = 600.0
_SAMPLE_ROWS = 4


@dataclass(frozen=True, slots=True)
class Rank:
    """Which process this is."""

    rank: int = 0
    local_rank: int = 0
    world: int = 1
    metrics_address: str | None = None
    """Where it serves metrics; nowhere when None."""
    folder: Path | None = None
    """Where its launcher looks for signs of life; the work folder when None."""
    writer: fence.Writer = field(default_factory=fence.Writer)
    """Whose checkpoints it writes."""


class Progress:
    """What is known so far, for the result of a run that fails."""

    def __init__(self) -> None:
        """Start with nothing."""
        self.loop: Loop | None = None
        self.max_steps = 0
        self.resumed_from: int | None = None
        self.metrics: dict[str, float] = {}
        self.report: str | None = None

    def result(self, outcome: Any, **more: Any) -> Result:
        """Return the result of a run that ends here."""
        step = self.loop.step if self.loop else 0
        saved = self.loop.saved_step if self.loop else None
        place = None if saved is None else CheckpointRef(step=saved, path=f"{CHECKPOINTS_DIR}/step-{saved:08d}")
        return Result(
            outcome=outcome,
            step=step,
            max_steps=self.max_steps,
            metrics=self.metrics,
            report=self.report,
            checkpoint=place,
            resumed_from=self.resumed_from,
            **more,
        )


def train(config: RunConfig, rank: Rank, stop: StopFlag, progress: Progress) -> Result:
    """Run one process to its end.

    Args:
        config: The run.
        rank: Which process this is.
        stop: Set when the process is asked to stop.
        progress: Filled while the run goes on.

    Returns:
        The result of a complete run.

    Raises:
        TrainerError: The run stopped, for the reason of the error's class.
    """  # noqa: DOC502
    work = Path(config.paths.work)
    work.mkdir(parents=True, exist_ok=True)
    trackers = open_trackers(list(config.spec.tracking), work / TRACKING_DIR, config.job.name) if rank.rank == 0 else {}
    reporter = Reporter(work, rank.rank, trackers, rank.folder)
    group: Group | None = None
    try:
        if rank.rank == 0 and rank.metrics_address:
            reporter.decision(Decision("metrics", reporter.metrics.serve(rank.metrics_address), "Prometheus endpoint"))
        reporter.phase("data", "reading and tokenising the data")
        group = join_group(rank.rank, rank.local_rank, rank.world, _COLLECTIVE_TIMEOUT_S)
        if not group.is_main:
            group.barrier()
        data = prepare_data(config)
        if group.is_main:
            group.barrier()
        return _Run(config, data, group, reporter, stop, progress, rank.writer).go()
    finally:
        reporter.close()
        if group is not None:
            group.close()


class _Run:
    """The steps of a run after its data is ready."""

    def __init__(  # noqa: PLR0913, PLR0917 - one caller, five collaborators
        self,
        config: RunConfig,
        data: Data,
        group: Group,
        reporter: Reporter,
        stop: StopFlag,
        progress: Progress,
        writer: fence.Writer,
    ) -> None:
        self._config, self._spec = config, config.spec
        self._data = data
        self._group = group
        self._reporter = reporter
        self._stop = stop
        self._progress = progress
        self._writer = writer
        self._work = Path(config.paths.work)
        self._folder = self._work / CHECKPOINTS_DIR

    def go(self) -> Result:
        for decision in self._data.decisions:
            self._reporter.decision(decision)
        if self._group.is_main:
            fence.claim(self._folder, self._writer)
        state = self._find_state()
        kept = None if state is None or self._config.micro_batch is not None else state.meta["decided"]
        deciding = Deciding(self._config, self._group, self._reporter, kept)
        decided = deciding.machine()
        prepared = build_model(self._spec, self._data, self._group.device, self._reporter)
        judge = Judge(
            self._data.task,
            self._group,
            autocast(self._group.device, decided["precision"]),
            self._stop,
            self._reporter.heartbeat,
        )
        if any(self._group.gather(self._stop.requested)):
            raise Preempted("asked to stop before the first step", remedy="Run the same command again.")
        self._data = replace(self._data, encoded=refer(judge, prepared.model, self._data.encoded))
        parts = self._parts(prepared, judge, decided)
        schedule = deciding.schedule(decided, prepared.model, self._data.encoded["train"].table)
        self._progress.max_steps = schedule.max_steps
        loop = Loop(parts, schedule, self._spec.training, self._folder)
        self._progress.loop = loop
        self._announce(loop, prepared)
        base = self._base_metric(state, prepared, parts.evaluations)
        meta = {"run": self._fingerprint(), "world": self._group.world, "decided": decided, "base": base}
        meta["writer"] = self._writer.to_dict()
        if state is not None:
            loop.restore(state)
            self._progress.resumed_from = state.step
            self._reporter.phase("resumed", f"continues from step {state.step}")
        self._reporter.phase("training", "training")
        loop.run(meta)
        try:
            self._progress.metrics |= parts.evaluations.last(loop.step, prepared.model, judged=loop.judged)
        except EvaluationStopped:
            loop.stop_now(meta)
        self._report(parts.evaluations, loop)
        gate = self._spec.evaluation.gate
        if gate is not None:
            check_gate(gate, parts.evaluations.deciding, self._progress.metrics, base)
        return self._hand_over(prepared, loop)

    def _find_state(self) -> checkpoint.TrainState | None:
        found = checkpoint.newest_valid(self._folder)
        for name, why in found.skipped:
            self._reporter.warning(f"checkpoint {name} is skipped: {why}")
        if found.path is None:
            return None
        state = checkpoint.load(found.path)
        if state.meta["run"] != self._fingerprint():
            raise ConfigError(
                f"{found.path}: this checkpoint was made by another model, data, method or training section",
                remedy="Choose another --workdir, or delete the old one to start again.",
            )
        if state.meta["world"] != self._group.world:
            self._reporter.warning(
                f"the checkpoint was made by {state.meta['world']} processes, now there are {self._group.world}: the "
                "same samples in the same order, but not the same bits"
            )
        return state

    def _fingerprint(self) -> str:
        spec = self._spec.to_dict()
        parts = {name: spec[name] for name in ("task", "model", "data", "method", "training")}
        return text_digest(canonical_json({"spec": parts, "data": dict(self._data.digests)}))

    def _parts(self, prepared: Prepared, judge: Judge, decided: dict[str, str]) -> Parts:
        proven = prove(self._config, self._data, prepared, self._group.device, self._reporter)
        rows, told = begin_behind_frozen(self._config, judge, prepared.model, self._data.encoded, decided)
        for decision in told:
            self._reporter.decision(decision)
        return Parts(
            proven.objective,
            prepared.model,
            proven.parameters,
            rows["train"],
            Evaluations(self._spec.evaluation, judge, rows, self._reporter, self._work / EVALUATION_DIR),
            self._group,
            self._reporter,
            self._stop,
            judge.autocast,
            prepared.rates,
            StepHooks((*prepared.hooks, *averaging(proven.parameters, self._spec.training.average))),
        )

    def _announce(self, loop: Loop, prepared: Prepared) -> None:
        total, trained = parameter_counts(prepared.model)
        told = f"{loop.sampler.steps_per_epoch} in an epoch"
        self._reporter.decision(Decision("parameters", f"{trained:,}", f"{100 * trained / total:.2f} % of {total:,}"))
        self._reporter.decision(Decision("steps", str(self._progress.max_steps), told))

    def _base_metric(
        self, state: checkpoint.TrainState | None, prepared: Prepared, evaluations: Evaluations
    ) -> float | None:
        """Judge the untrained model when the gate compares with it."""
        gate = self._spec.evaluation.gate
        if gate is None or gate.better_than_base is None:
            return None
        return evaluations.base(prepared.model) if state is None else float(state.meta["base"])

    def _report(self, evaluations: Evaluations, loop: Loop) -> None:
        """Write what people read of the evaluations."""
        if not evaluations.newest:
            return
        place = self._work / EVALUATION_DIR / REPORT_FILE
        self._progress.report = str(place)
        if self._group.is_main:
            self._reporter.phase("report", "writing the report")
            report_run(self._config, self._data, evaluations.newest, loop.step)

    def _hand_over(self, prepared: Prepared, loop: Loop) -> Result:
        place = Path(self._config.paths.output)
        digest = ""
        if self._group.is_main:
            self._reporter.phase("artifact", "writing and checking the artifact")
            fence.check(self._folder, self._writer)
            table = self._data.encoded["train"].table
            rows = torch.arange(min(_SAMPLE_ROWS, len(table))).numpy()
            rows_by_set = {name: len(found.table) for name, found in self._data.encoded.items()}
            facts = CardFacts(
                self._config.job.name,
                self._data.task.head.kind,
                self._data.files,
                self._data.digests,
                rows_by_set,
                loop.step,
                self._progress.metrics,
            )
            handover = artifacts.Handover(
                self._spec,
                self._data.task,
                self._data.files,
                self._data.processor,
                prepared,
                self._data.task.collate(table, rows, None).to(self._group.device),
                model_card(facts, self._spec),
                self._data.max_length,
                self._work / EVALUATION_DIR if self._progress.report else None,
            )
            digest = artifacts.write_artifact(handover, place, self._reporter.decision)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            self._reporter.decision(Decision("peakMemory", f"{peak:.0f} MiB", "largest resident size of process 0"))
        self._group.barrier()
        formats = list(artifacts.default_formats(self._spec))
        reference = ArtifactRef(uri=self._spec.output.uri or str(place), digest=digest, formats=formats)
        if self._progress.report:
            self._progress.report = f"{reference.uri.rstrip('/')}/{EVALUATION_DIR}/{REPORT_FILE}"
        return self._progress.result("Complete", artifact=reference)
