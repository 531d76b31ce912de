"""From a job to a run on this machine: folders, number of processes, the run configuration on disk."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from finetune_api.names import ARTIFACT_DIR, CHECKPOINTS_DIR, EVENTS_FILE, RESULT_FILE, RUN_CONFIG_FILE
from finetune_api.result import Result
from finetune_api.run_config import JobIdentity, Paths, RunConfig
from finetune_api.spec import FineTuneJob
from finetune_api.uri import parse_uri
from finetune_api.validation import InvalidSpec, Problem

LOCAL_FOLDER = ".finetune"


@dataclass(frozen=True, slots=True)
class Run:
    """A run on this machine."""

    config: RunConfig
    work: Path

    @property
    def config_file(self) -> Path:
        """Where the run configuration is."""
        return self.work / RUN_CONFIG_FILE

    def write(self) -> str:
        """Write the run configuration and return its sha256."""
        self.work.mkdir(parents=True, exist_ok=True)
        self.config_file.write_text(self.config.to_json(), encoding="utf-8")
        return self.config.digest()

    def finished_before(self) -> Result | None:
        """Return the result of an earlier, complete run of the very same configuration."""
        try:
            same = RunConfig.from_json(self.config_file.read_bytes()).digest() == self.config.digest()
            result = Result.from_json((self.work / RESULT_FILE).read_bytes())
        except (OSError, ValueError):
            return None
        done = same and result.outcome == "Complete" and Path(self.config.paths.output).is_dir()
        return result if done else None

    def has_checkpoint(self) -> bool:
        """Tell whether there may be something to continue from."""
        return any((self.work / CHECKPOINTS_DIR).glob("step-*"))

    def begin(self) -> None:
        """Make room: the events of an earlier end are kept while a run continues, and dropped when it starts anew."""
        if not self.has_checkpoint():
            (self.work / EVENTS_FILE).unlink(missing_ok=True)
            shutil.rmtree(self.work / "tracking", ignore_errors=True)


def resolve(job: FineTuneJob, manifest: Path, workdir: Path | None) -> Run:
    """Decide folders and processes.

    Args:
        job: The job.
        manifest: Its file; relative addresses start at its folder.
        workdir: Work folder; `.finetune/NAME` beside the manifest when None.

    Returns:
        The run.

    Raises:
        InvalidSpec: The job needs a cluster.
    """
    folder = manifest.resolve().parent
    problems: list[Problem] = []
    if job.spec.workers.nodes > 1:
        problems.append(
            Problem(
                "spec.workers.nodes",
                "a run on this machine has one node",
                str(job.spec.workers.nodes),
                "Run it on a cluster, or use --set workers.nodes=1.",
            )
        )
    work = workdir.resolve() if workdir else folder / LOCAL_FOLDER / job.metadata.name
    output = work / ARTIFACT_DIR
    if job.spec.output.uri is not None:
        uri = parse_uri(job.spec.output.uri)
        if uri.scheme == "file":
            output = folder / uri.path
        else:
            problems.append(
                Problem(
                    "spec.output.uri",
                    "a run on this machine writes to file://",
                    job.spec.output.uri,
                    "Run it on a cluster, or use --set output.uri=null.",
                )
            )
    if problems:
        raise InvalidSpec(tuple(problems))
    config = RunConfig(
        job=JobIdentity(name=job.metadata.name, namespace=job.metadata.namespace, uid=job.metadata.uid),
        spec=job.spec,
        paths=Paths(work=str(work), output=str(output), cache=str(work.parent / "cache"), manifest_folder=str(folder)),
        processes=job.spec.workers.processes_per_node or 1,
    )
    return Run(config, work)
