"""Overrides of the pod that the schema allows and a pod does not: clashes with our wiring, repeated names."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Final

from finetune_api.spec import Pod
from finetune_api.validation import Problem, show
from finetune_operator.plan.volumes import OUR_MOUNTS, VOLUME_PREFIX

# Half of what Kubernetes allows for all annotations of an object; the run configuration needs the other half.
_ANNOTATIONS_BYTES: Final = 128 * 1024
_OUR_PLACES: Final = tuple(PurePosixPath(each) for each in OUR_MOUNTS)
_JOB_LABELS: Final = ("job-name", "controller-uid")
_JOB_LABEL_PREFIX: Final = "batch.kubernetes.io/"


def pod_problems(pod: Pod) -> Iterator[Problem]:
    """Yield what is wrong with a manifest's pod overrides."""
    yield from _repeated("spec.pod.env", (each.name for each in pod.env))
    yield from _repeated("spec.pod.volumes", (each.name for each in pod.volumes))
    yield from _repeated("spec.pod.volumeMounts", (each.mount_path for each in pod.volume_mounts))
    yield from _env(pod)
    yield from _volumes(pod)
    yield from _mounts(pod)
    yield from _metadata(pod)


def _repeated(path: str, values: Iterable[str]) -> Iterator[Problem]:
    for value, times in Counter(values).items():
        if times > 1:
            yield Problem(path, "each name and each place once", show(value), "Keep one of them.")


def _env(pod: Pod) -> Iterator[Problem]:
    for index, variable in enumerate(pod.env):
        if variable.value is not None and "\0" in variable.value:
            path = f"spec.pod.env[{index}].value"
            yield Problem(path, "no process can hold a NUL character", show(variable.value), "Remove it.")


def _volumes(pod: Pod) -> Iterator[Problem]:
    for index, volume in enumerate(pod.volumes):
        if volume.name.startswith(VOLUME_PREFIX):
            path = f"spec.pod.volumes[{index}].name"
            yield Problem(path, f"{VOLUME_PREFIX}* belongs to the operator", show(volume.name), "Choose another name.")


def _mounts(pod: Pod) -> Iterator[Problem]:
    volumes = {each.name for each in pod.volumes}
    for index, mount in enumerate(pod.volume_mounts):
        path = f"spec.pod.volumeMounts[{index}]"
        if mount.name not in volumes:
            yield Problem(f"{path}.name", "a volume of pod.volumes", show(mount.name), "Add the volume.")
        place = PurePosixPath(f"/{mount.mount_path.strip('/')}")
        if ".." in place.parts:
            yield Problem(f"{path}.mountPath", "without '..'", show(mount.mount_path), "Write the path without it.")
        elif any(_overlap(place, ours) for ours in _OUR_PLACES):
            rule = f"{', '.join(OUR_MOUNTS)} belong to the operator"
            yield Problem(f"{path}.mountPath", rule, show(mount.mount_path), "Mount it elsewhere.")
        folder = PurePosixPath(mount.sub_path or "")
        if folder.is_absolute() or ".." in folder.parts or "\0" in str(folder):
            rule = "a folder inside the volume, without '..'"
            yield Problem(f"{path}.subPath", rule, show(mount.sub_path), "Write a relative path.")


def _overlap(first: PurePosixPath, second: PurePosixPath) -> bool:
    return first == second or first in second.parents or second in first.parents


def _metadata(pod: Pod) -> Iterator[Problem]:
    for name in pod.labels:
        if name in _JOB_LABELS or name.startswith(_JOB_LABEL_PREFIX):
            yield Problem("spec.pod.labels", "this label belongs to Kubernetes' Job", show(name), "Remove it.")
    size_bytes = sum(len(name.encode()) + len(value.encode()) for name, value in pod.annotations.items())
    if size_bytes > _ANNOTATIONS_BYTES:
        yield Problem(
            "spec.pod.annotations",
            f"at most {_ANNOTATIONS_BYTES} bytes, all together",
            f"{size_bytes} bytes",
            "Put long values into a ConfigMap and mount it.",
        )
