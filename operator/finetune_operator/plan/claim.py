"""The claim of the work volume, made for a job and shared by its attempts."""

from typing import Any

from finetune_operator.plan.identity import child_labels
from finetune_operator.plan.shape import Shape


def claim_of(shape: Shape) -> dict[str, Any] | None:
    """Return the claim to make; None when the manifest names one, or keeps nothing."""
    storage = shape.job.spec.storage
    if storage.ephemeral or storage.claim_name is not None:
        return None
    spec: dict[str, Any] = {
        # Every node writes its own folder below one checkpoint.
        "accessModes": ["ReadWriteMany" if shape.nodes > 1 else "ReadWriteOnce"],
        "resources": {"requests": {"storage": storage.size or shape.settings.default_storage_size}},
    }
    if storage.storage_class_name is not None:
        spec["storageClassName"] = storage.storage_class_name
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {**shape.metadata(shape.claim_name), "labels": child_labels(shape.job)},
        "spec": spec,
    }
