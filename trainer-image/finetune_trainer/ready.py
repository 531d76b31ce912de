"""An artifact's model on the best device, and rows as it reads them: tokenised and batched as in a run."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from finetune_trainer import runtime
from finetune_trainer.data.looking import look
from finetune_trainer.data.media import MediaColumn, Workers
from finetune_trainer.data.schema import Example
from finetune_trainer.distributed import join_group
from finetune_trainer.evaluate import Judge, refer
from finetune_trainer.opening import Opened
from finetune_trainer.stopping import StopFlag
from finetune_trainer.tasks.base import Encoded, Referred


class Ready:
    """A model that can be asked and judged."""

    def __init__(self, opened: Opened) -> None:
        """Move the model to the best device and choose its number format, as a run does.

        Args:
            opened: The artifact.
        """
        self._opened = opened
        group = join_group(0, 0, 1, 0.0)
        torch.set_num_threads(int(runtime.choose_threads(1).value))
        self._workers = Workers(max(1, int(runtime.cpu_quota())))
        precision = runtime.choose_dtype(opened.kept.spec.training.precision, group.device).value
        self.model = opened.model.to(group.device)
        self.judge = Judge(opened.task, group, runtime.autocast(group.device, precision), StopFlag(), lambda: None)
        self.before = opened.untrained().to(group.device) if isinstance(opened.task, Referred) else None

    def encode(self, examples: Sequence[Example]) -> tuple[Sequence[Example], Encoded]:
        """Return the examples, their images and sounds looked at, and their rows as the model reads them."""
        opened, decoders = self._opened, self._opened.processor.decoders
        if decoders:
            examples = look(examples, decoders, self._workers, opened.places.cache)
        encoded = opened.task.encode(examples, opened.processor, opened.kept.max_length)
        columns = {
            name: MediaColumn([each.media.get(name) for each in encoded.examples], decoder, self._workers)
            for name, decoder in decoders.items()
        }
        encoded = replace(encoded, table=replace(encoded.table, media=columns))
        if self.before is not None:
            encoded = refer(self.judge, self.before, {"rows": encoded})["rows"]
        return examples, encoded
