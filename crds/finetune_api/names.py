"""Every label, annotation, environment variable, file and object name that two parts agree on."""

import base64
import hashlib
import re
from functools import lru_cache
from typing import Final

GROUP: Final = "finetune.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "FineTuneJob"
SWEEP_KIND: Final = "FineTuneSweep"
PLURAL: Final = "finetunejobs"
SINGULAR: Final = "finetunejob"
SHORT_NAME: Final = "ftj"
CATEGORY: Final = "finetune"
CRD_NAME: Final = f"{PLURAL}.{GROUP}"

LABEL_JOB: Final = f"{GROUP}/job"
LABEL_JOB_UID: Final = f"{GROUP}/job-uid"
LABEL_ATTEMPT: Final = f"{GROUP}/attempt"
LABEL_TASK: Final = f"{GROUP}/task"
LABEL_QUEUE: Final = "kueue.x-k8s.io/queue-name"
ANNOTATION_RUN_CONFIG: Final = f"{GROUP}/run-config"
ANNOTATION_SPEC_HASH: Final = f"{GROUP}/spec-hash"
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGER: Final = "finetune-operator"
JOB_INDEX_ANNOTATION: Final = "batch.kubernetes.io/job-completion-index"
JOB_NAME_LABEL: Final = "batch.kubernetes.io/job-name"

ENV_PREFIX: Final = "FINETUNE_"
ENV_RUN_CONFIG: Final = "FINETUNE_RUN_CONFIG"
ENV_RUN_CONFIG_SHA256: Final = "FINETUNE_RUN_CONFIG_SHA256"
# Set by the operator or the launcher; a manifest that sets them would break the wiring between the ranks.
RESERVED_ENV: Final = (
    "CUDA_VISIBLE_DEVICES",
    "GROUP_RANK",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "HOME",
    "JOB_COMPLETION_INDEX",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "PATH",
    "PYTHONPATH",
    "RANK",
    "TMPDIR",
    "TORCHINDUCTOR_CACHE_DIR",
    "TRANSFORMERS_OFFLINE",
    "WORLD_SIZE",
)

TRAINER_CONTAINER: Final = "trainer"
PROGRESS_AUDIENCE: Final = "finetune.dev/progress"
"""Audience of the token with which a trainer posts its progress; good for nothing else."""
MOUNT_WORK: Final = "/var/finetune/work"
MOUNT_SCRATCH: Final = "/var/finetune/scratch"
MOUNT_PROGRESS: Final = "/var/run/finetune/progress"
MOUNT_JOB: Final = "/etc/finetune"
MOUNT_CLAIMS: Final = "/var/finetune/claims"
RENDEZVOUS_PORT: Final = 29400
METRICS_PORT: Final = 9464
PROGRESS_PATH: Final = "/v1/namespaces/{namespace}/jobs/{job}/progress"
"""Path at the operator's endpoint; `job` is the batch Job's name."""
METRICS_PORT_NAME: Final = "metrics"
RUN_CONFIG_FILE: Final = "run-config.json"
EVENTS_FILE: Final = "events.jsonl"
RESULT_FILE: Final = "result.json"
MANIFEST_FILE: Final = "manifest.json"
TASK_FILE: Final = "task.json"
CHECKPOINTS_DIR: Final = "checkpoints"
ARTIFACT_DIR: Final = "artifact"
TRACKING_DIR: Final = "tracking"
EVALUATION_DIR: Final = "evaluation"
"""What the model said of each held-out row, and the report; in the work folder, and beside the model in an artifact."""
PREDICTIONS_FILE: Final = "predictions.parquet"
REPORT_FILE: Final = "report.html"
TERMINATION_MESSAGE_BYTES: Final = 4096

MAX_JOB_NAME: Final = 52
_HASH_LENGTH: Final = 10


def rank_result_file(rank: int) -> str:
    """Return the name of the file in which a rank leaves its Result for the launcher."""
    return f"result-rank-{rank}.json"


@lru_cache(maxsize=4096)
def job_name(name: str, uid: str, attempt: int) -> str:
    """Return the name of an attempt's Job: readable head, unique tail.

    Args:
        name: The FineTuneJob's name, a DNS name of at most 253 characters.
        uid: The FineTuneJob's uid; a recreated job of the same name gets other children.
        attempt: Counted from 1.

    Returns:
        A DNS label of at most 52 characters, so that the Job's pods keep a valid hostname.
    """
    digest = hashlib.sha256(f"{uid}/{attempt}".encode()).digest()
    tail = base64.b32encode(digest[:10]).decode().lower()[:_HASH_LENGTH]
    return f"{_slug(name, MAX_JOB_NAME - _HASH_LENGTH - 1)}-{tail}"


def service_name(job: str) -> str:
    """Return the name of a Job's headless Service; it starts with a letter, which Kubernetes before 1.36 requires."""
    return f"ft-{job}"


def _slug(name: str, length: int) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower())[:length].strip("-") or "job"
