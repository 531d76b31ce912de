"""The model card: what the model is, from what it was made, how good it is, and the exact manifest."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from finetune_api.method_types import MERGED
from finetune_api.names import API_VERSION, KIND
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.artifacts import default_formats
from finetune_trainer.sources import ModelFiles
from finetune_trainer.tasks.base import HEADS


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What the card tells besides the manifest."""

    job: str
    head: str
    files: ModelFiles
    data_digests: Mapping[str, str]
    rows: Mapping[str, int]
    steps: int
    metrics: Mapping[str, float]


def model_card(facts: CardFacts, spec: FineTuneJobSpec) -> str:
    """Return the card as Markdown with the front matter that model hubs read."""
    revision = f" at `{facts.files.revision}`" if facts.files.revision else ""
    form = default_formats(spec)[0]
    library = "transformers" if form != "adapter" else "peft" if spec.method.type in MERGED else "finetune-operator"
    use = {
        "peft": f'model = PeftModel.from_pretrained({HEADS[facts.head]}.from_pretrained(BASE), "{form}")',
        "transformers": f'model = {HEADS[facts.head]}.from_pretrained("{form}")',
        "finetune-operator": "from finetune_trainer.methods import attach\n"
        f'model = attach({HEADS[facts.head]}.from_pretrained(BASE), Path("{form}"))',
    }[library]
    manifest = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": facts.job},
        "spec": spec.to_dict(),
    }
    lines = [
        "---",
        f"base_model: {json.dumps(facts.files.uri)}",
        f"library_name: {library}",
        f"tags: [{spec.task}, {spec.method.type}]",
        "---",
        f"# {facts.job}",
        "",
        f"`{facts.files.uri}`{revision}, fine-tuned for {spec.task} with {spec.method.type}, {facts.steps} steps.",
        "",
        "## Data",
        *(f"- {name}: {count} rows, sha256 `{facts.data_digests[name]}`" for name, count in facts.rows.items()),
        "",
        "## Metrics",
        *([f"- {name}: {value:.6g}" for name, value in facts.metrics.items()] or ["No rows were held out."]),
        "",
        "## Use",
        "```python",
        use,
        "```",
        "",
        "## Manifest",
        "```json",
        json.dumps(manifest, indent=2, sort_keys=True),
        "```",
    ]
    return "\n".join(lines) + "\n"
