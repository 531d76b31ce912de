"""A whole task in one file: does a text speak of love?"""

import math
from types import SimpleNamespace

import numpy as np
import torch
from torch.nn import functional as F

from finetune_trainer.data.schema import Example, text_of
from finetune_trainer.tasks.base import HeadSpec
from finetune_trainer.tasks.text_encoder import collate_texts, encode_texts, pooled_logits, text_pieces

WORD = "love"


class Love:
    name = "love"
    metric_names = ("loss", "accuracy")
    head = HeadSpec("sequence-classification", {"num_labels": 1})

    def fingerprint(self):
        return {"word": WORD}

    def encode(self, examples, tokenizer, max_length):
        labels = np.array([[WORD in each.text] for each in examples], dtype=np.float32)
        return encode_texts(examples, tokenizer, max_length, labels)

    def collate(self, table, rows, _):
        return collate_texts(table, rows, 0, torch.from_numpy(table.dense["labels"][rows][:, 0]))

    def targets(self, _, rows, __):
        return float(len(rows))

    def loss_sum(self, model, batch):
        return self.losses(pooled_logits(model, batch)[:, 0], batch).sum()

    def predict(self, model, batch):
        scores = pooled_logits(model, batch)[:, 0]
        right = (scores > 0) == (batch.tensors["labels"] > 0)
        return {"loss": self.losses(scores, batch).numpy(), "right": right.numpy()}

    def metrics(self, predictions, examples):
        assert len(examples) == len(predictions["loss"])
        return {"loss": math.fsum(predictions["loss"]) / len(examples), "accuracy": predictions["right"].mean()}

    def pieces(self, table, row, tokenizer):
        return text_pieces(table, row, tokenizer)

    def label_text(self, example):
        return str(WORD in example.text)

    def losses(self, scores, batch):
        return F.binary_cross_entropy_with_logits(scores, batch.tensors["labels"], reduction="none")


MODULE = SimpleNamespace(
    read=lambda columns: lambda row: Example(row, text=text_of(row, columns.need("text"))), build=lambda *_: Love()
)
