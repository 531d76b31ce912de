"""The batch/v1 Job of an attempt: a gang that lives and dies together."""

from typing import Any

from finetune_api import names
from finetune_operator.diagnose import pod_failure_policy
from finetune_operator.plan.identity import spec_hash
from finetune_operator.plan.pod import pod_template
from finetune_operator.plan.shape import Shape


def job_of(shape: Shape) -> dict[str, Any]:
    """Return the Job of an attempt."""
    metadata = shape.metadata(shape.name)
    metadata["annotations"] = {names.ANNOTATION_SPEC_HASH: spec_hash(shape.job)}
    scheduling = shape.job.spec.scheduling
    queue, managed_by = scheduling.queue, scheduling.managed_by
    if queue is not None:
        metadata["labels"] = {**shape.labels, names.LABEL_QUEUE: queue}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "completionMode": "Indexed",
            "completions": shape.nodes,
            "parallelism": shape.nodes,
            # A restart is a new attempt, decided from the reason; a pod that replaces one of a gang has no peers.
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": pod_failure_policy(),
            # Kueue starts what it admits; it must not race with pods that started before it looked.
            "suspend": shape.attempt.suspended or queue is not None,
            "template": pod_template(shape),
            **({"managedBy": managed_by} if managed_by else {}),
        },
    }
