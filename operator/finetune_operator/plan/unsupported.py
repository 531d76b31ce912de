"""What a valid manifest may ask for that a cluster cannot do, found before anything is made.

The API server would refuse most of it too, but only once pods are made, and without a remedy.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Final

from finetune_api.spec import FineTuneJob, FineTuneJobSpec
from finetune_api.uri import Uri
from finetune_api.validation import Problem, show
from finetune_operator.plan.addresses import OUTPUT, addresses
from finetune_operator.plan.pod_problems import pod_problems
from finetune_operator.plan.quantity import amount

_READ: Final = ("pvc", "hf", "package")


def unsupported(job: FineTuneJob) -> tuple[Problem, ...]:
    """Return everything about a job that a cluster cannot do."""
    spec = job.spec
    return (*_addresses(spec), *_outputs(spec), *_resources(spec), *_claims(spec), *pod_problems(spec.pod))


def _addresses(spec: FineTuneJobSpec) -> Iterator[Problem]:
    for path, uri in addresses(spec):
        if path == OUTPUT or uri.scheme in _READ:
            continue
        if uri.scheme == "file":
            rule, remedy = "file:// is a folder of your machine", "Copy it into a claim and write pvc://claim/path."
        else:
            rule = f"the trainer cannot fetch {uri.scheme}:// yet"
            remedy = "Copy it into a claim and write pvc://claim/path, or use hf://."
        yield Problem(path, rule, show(str(uri)), remedy)


def _outputs(spec: FineTuneJobSpec) -> Iterator[Problem]:
    read = addresses(spec)
    output = next((uri for path, uri in read if path == OUTPUT), None)
    remedy = "Write a folder in a claim, such as pvc://models/my-model."
    if output is None:
        yield Problem(OUTPUT, "required on a cluster: the work volume is deleted with the job", "", remedy)
    elif output.scheme == "file":
        yield Problem(OUTPUT, "file:// is a folder of your machine", show(str(output)), remedy)
    elif output.scheme != "pvc":
        yield Problem(OUTPUT, f"the trainer cannot write to {output.scheme}:// yet", show(str(output)), remedy)
    elif not output.path:
        rule = "the artifact is written beside its folder and renamed, which a volume's root cannot be"
        yield Problem(OUTPUT, rule, show(str(output)), f"Add a folder: pvc://{output.location}/my-model.")
    else:
        yield from _overlaps(output, [each for each in read if each[0] != OUTPUT])


def _overlaps(output: Uri, sources: list[tuple[str, Uri]]) -> Iterator[Problem]:
    for path, uri in sources:
        if uri.scheme == "pvc" and uri.location == output.location and f"{uri.path}/".startswith(f"{output.path}/"):
            yield Problem(
                OUTPUT,
                f"the artifact replaces this folder, and {path} is in it",
                show(str(output)),
                "Write to another folder.",
            )


def _resources(spec: FineTuneJobSpec) -> Iterator[Problem]:
    limits, requests = spec.workers.resources.limits, spec.workers.resources.requests
    for name, value in requests.items():
        path = f"spec.workers.resources.requests.{name}"
        if _is_device(name) and (name not in limits or amount(limits[name]) != amount(value)):
            yield Problem(
                path, "a device is asked for by its limit", show(value), f"Remove it, and set limits: {{{name}: ...}}."
            )
        elif name in limits and amount(value) > amount(limits[name]):
            yield Problem(path, f"at most the limit, {limits[name]}", show(value), "Lower it, or raise the limit.")
    for name, value in limits.items():
        if _is_device(name) and amount(value) % 1:
            path = f"spec.workers.resources.limits.{name}"
            yield Problem(path, "devices are whole", show(value), "Write a whole number.")


def _is_device(name: str) -> bool:
    """Tell whether a resource is an extended one: neither a core resource nor of kubernetes.io."""
    domain, separator, _ = name.partition("/")
    return bool(separator) and domain != "kubernetes.io" and not domain.endswith(".kubernetes.io")


def _claims(spec: FineTuneJobSpec) -> Iterator[Problem]:
    claims = spec.pod.resource_claims
    for index, claim in enumerate(claims):
        if (claim.resource_claim_name is None) == (claim.resource_claim_template_name is None):
            yield Problem(
                f"spec.pod.resourceClaims[{index}]",
                "exactly one of resourceClaimName and resourceClaimTemplateName",
                show(claim.name),
                "Keep one of them.",
            )
    for name, times in Counter(each.name for each in claims).items():
        if times > 1:
            yield Problem("spec.pod.resourceClaims", "each name once", show(name), "Choose another name.")
