"""One rank of several runs, one after the other in one process group: Python and torch start once for all of them."""

import os
import sys
from functools import cache
from pathlib import Path

import torch

from finetune_api.run_config import RunConfig
from finetune_trainer import run
from finetune_trainer.distributed import Group
from finetune_trainer.stopping import StopFlag

run.join_group = cache(run.join_group)
Group.close = lambda _: None
environment = os.environ  # noqa: TID251 - torchrun's
rank = run.Rank(int(environment["RANK"]), int(environment["LOCAL_RANK"]), int(environment["WORLD_SIZE"]))
for file in sys.argv[1:]:
    run.train(RunConfig.from_json(Path(file).read_bytes()), rank, StopFlag(), run.Progress())
if rank.world > 1:
    torch.distributed.destroy_process_group()
