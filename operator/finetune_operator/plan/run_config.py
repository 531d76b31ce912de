"""What the trainer is told on a cluster."""

from finetune_api import names
from finetune_api.run_config import Endpoint, JobIdentity, Paths, RunConfig
from finetune_api.spec import Pod, Restarts, Scheduling, Secrets
from finetune_api.uri import parse_uri
from finetune_operator.plan.addresses import claim_mount
from finetune_operator.plan.shape import Shape

# Nothing of the trainer's business: an edit of these leaves its configuration as it is, and a long pod.env could not
# travel in an annotation.
_LEFT_OUT = {
    "pod": Pod(),
    "scheduling": Scheduling(),
    "secrets": Secrets(),
    "restarts": Restarts(),
    "suspend": False,
    "active_deadline_seconds": None,
    "ttl_seconds_after_finished": None,
}


def run_config(shape: Shape) -> RunConfig:
    """Return the configuration of an attempt."""
    metadata = shape.job.metadata
    return RunConfig(
        job=JobIdentity(
            name=metadata.name, namespace=metadata.namespace, uid=metadata.uid, attempt=shape.attempt.number
        ),
        spec=shape.job.spec.model_copy(update=_LEFT_OUT),
        paths=Paths(
            work=names.MOUNT_WORK,
            output=_output_folder(shape),
            cache=f"{names.MOUNT_WORK}/cache",
            manifest_folder=names.MOUNT_JOB,
        ),
        processes=shape.nodes * shape.processes_per_node,
        nodes=shape.nodes,
        rendezvous=f"{shape.name}-0.{shape.service_name}" if shape.nodes > 1 else "",
        progress=_progress(shape),
        claims={claim: claim_mount(claim) for claim in shape.claims},
        micro_batch=shape.attempt.micro_batch,
    )


def _output_folder(shape: Shape) -> str:
    text = shape.job.spec.output.uri
    uri = parse_uri(text) if text is not None else None
    if uri is not None and uri.scheme == "pvc":
        return f"{claim_mount(uri.location)}/{uri.path}"
    # Written here first, then carried to an object store.
    return f"{names.MOUNT_WORK}/{names.ARTIFACT_DIR}"


def _progress(shape: Shape) -> Endpoint | None:
    settings = shape.settings
    if not settings.progress_url:
        return None
    path = names.PROGRESS_PATH.format(namespace=shape.job.metadata.namespace, job=shape.name)
    return Endpoint(url=settings.progress_url.rstrip("/") + path, ca=settings.progress_ca)
