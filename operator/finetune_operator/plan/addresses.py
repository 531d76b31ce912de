"""The addresses of a spec, and the claims among them."""

from finetune_api.names import MOUNT_CLAIMS
from finetune_api.spec import FineTuneJobSpec
from finetune_api.uri import Uri, parse_uri

OUTPUT = "spec.output.uri"


def addresses(spec: FineTuneJobSpec) -> list[tuple[str, Uri]]:
    """Return (path in the manifest, address) of everything that is read, then of the output."""
    found = [("spec.model.uri", spec.model.uri), ("spec.data.train.uri", spec.data.train.uri)]
    if spec.data.validation is not None and spec.data.validation.uri is not None:
        found.append(("spec.data.validation.uri", spec.data.validation.uri))
    if spec.data.test is not None and spec.data.test.uri is not None:
        found.append(("spec.data.test.uri", spec.data.test.uri))
    for name, earlier in (("ewc", spec.training.ewc), ("replay", spec.training.replay)):
        if earlier is not None:
            found.append((f"spec.training.{name}.data.uri", earlier.data.uri))
    if spec.training.distillation is not None:
        found.append(("spec.training.distillation.teacher", spec.training.distillation.teacher))
    if spec.output.uri is not None:
        found.append((OUTPUT, spec.output.uri))
    return [(path, parse_uri(text)) for path, text in found]


def claims_of(spec: FineTuneJobSpec) -> dict[str, bool]:
    """Return the claims that pvc:// addresses name, and whether each is written to."""
    claims: dict[str, bool] = {}
    for path, uri in addresses(spec):
        if uri.scheme == "pvc":
            claims[uri.location] = claims.get(uri.location, False) or path == OUTPUT
    return claims


def has_hub_address(spec: FineTuneJobSpec) -> bool:
    """Tell whether anything comes from the Hugging Face hub."""
    return any(uri.scheme == "hf" for _, uri in addresses(spec))


def claim_mount(claim: str) -> str:
    """Return where a claim that an address names is mounted."""
    return f"{MOUNT_CLAIMS}/{claim}"
