"""Small models with a trained head each, for tasks that are distilled."""

import shutil
from pathlib import Path

from support.tiny import minilm_folder

TEACHERS = ("text-classification", "text-regression", "causal-lm")
_SIZES = {
    "hidden_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 30522,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}


def save_teacher(folder: Path, task: str) -> Path:
    """Save a model that is wider than the tiny students, reads the same tokens and says the same labels."""
    import torch
    import transformers as t

    torch.manual_seed(5)
    if task == "causal-lm":
        model = t.LlamaForCausalLM(t.LlamaConfig(**_SIZES, bos_token_id=101, eos_token_id=102))
    elif task == "text-regression":
        model = t.BertForSequenceClassification(t.BertConfig(**_SIZES, num_labels=1))
    else:
        names = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}
        model = t.BertForSequenceClassification(t.BertConfig(**_SIZES, **names))
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(minilm_folder() / name, folder / name)
    return folder
