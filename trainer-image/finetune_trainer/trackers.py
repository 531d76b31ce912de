"""Where training curves can go besides the job's own events; each needs its own package."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from finetune_trainer.errors import ConfigError


class TensorBoard:
    """Event files for TensorBoard."""

    def __init__(self, folder: Path, job: str) -> None:
        """Open a file in the folder; `job` is TensorBoard's name of the run."""
        _need("tensorboard")
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415

        self._writer: Any = SummaryWriter(str(folder / "tensorboard" / job))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers of a step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class WeightsAndBiases:
    """A Weights & Biases run; its address and key come from its own environment variables."""

    def __init__(self, folder: Path, job: str) -> None:
        """Start or continue the run named after the job."""
        _need("wandb")
        import wandb  # noqa: PLC0415 # pyright: ignore[reportMissingImports]

        self._run: Any = wandb.init(id=job, name=job, dir=str(folder), resume="allow")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers of a step."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Write what is left."""
        self._run.finish()


class MLflow:
    """An MLflow run; its server comes from MLFLOW_TRACKING_URI, else files in the work folder."""

    def __init__(self, folder: Path, job: str) -> None:
        """Start a run named after the job."""
        _need("mlflow")
        import mlflow  # noqa: PLC0415 # pyright: ignore[reportMissingImports]

        self._mlflow: Any = mlflow
        if not self._mlflow.is_tracking_uri_set():
            self._mlflow.set_tracking_uri((folder / "mlflow").as_uri())
        self._mlflow.start_run(run_name=job)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers of a step."""
        self._mlflow.log_metrics(dict(values), step=step)

    def close(self) -> None:
        """Write what is left."""
        self._mlflow.end_run()


OPENERS: Mapping[str, Callable[[Path, str], Any]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


def _need(package: str) -> None:
    if find_spec(package) is None:
        raise ConfigError(
            f"spec.tracking: {package} is not installed", remedy=f"Install it, or take {package} out of tracking."
        )
