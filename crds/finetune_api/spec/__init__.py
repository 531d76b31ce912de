"""What a person writes: the FineTuneJob and every object inside it.

The docstring under a field is its description in the CRD and in the reference; bounds and defaults stand in the type.
A field that is legal only for some task or method has no default here, since the API server would set it before it
checks the rules: `resolve.py` fills it in.
"""

from finetune_api.spec.cluster import (
    PodResourceClaim,
    Resources,
    Restarts,
    Scheduling,
    SecretKey,
    SecretName,
    Secrets,
    Storage,
    Toleration,
    Workers,
)
from finetune_api.spec.job import FineTuneJob, FineTuneJobSpec, Metadata, Task
from finetune_api.spec.model_data import Data, DataSource, Format, HeldOut, Model
from finetune_api.spec.objective import Adversarial, Consolidation, Distillation, Replay
from finetune_api.spec.pod import EnvVar, Pod, Volume, VolumeMount
from finetune_api.spec.training import (
    Augmentation,
    Checkpoint,
    EarlyStopping,
    Evaluation,
    Gate,
    Method,
    Output,
    OutputFormat,
    Tracker,
    Training,
)

__all__ = [
    "Adversarial",
    "Augmentation",
    "Checkpoint",
    "Consolidation",
    "Data",
    "DataSource",
    "Distillation",
    "EarlyStopping",
    "EnvVar",
    "Evaluation",
    "FineTuneJob",
    "FineTuneJobSpec",
    "Format",
    "Gate",
    "HeldOut",
    "Metadata",
    "Method",
    "Model",
    "Output",
    "OutputFormat",
    "Pod",
    "PodResourceClaim",
    "Replay",
    "Resources",
    "Restarts",
    "Scheduling",
    "SecretKey",
    "SecretName",
    "Secrets",
    "Storage",
    "Task",
    "Toleration",
    "Tracker",
    "Training",
    "Volume",
    "VolumeMount",
    "Workers",
]
