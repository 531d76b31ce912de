"""What the peers' scripts share: when the first step ended, how long a step takes, where the model is."""

import json
import time
from importlib.util import find_spec
from pathlib import Path

from transformers import TrainerCallback


class Clock(TrainerCallback):
    """Stamps optimiser steps."""

    def __init__(self):
        self.stamps = []

    def on_step_end(self, *_args, **_kwargs):
        self.stamps.append(time.time())

    def report(self, quality):
        """Print the figures as the last line."""
        step_s = (self.stamps[-1] - self.stamps[0]) / max(1, len(self.stamps) - 1)
        print(json.dumps({"first_step_at": self.stamps[0], "step_s": step_s, "quality": quality}))


def package_folder(name):
    """Return the folder of an installed package."""
    return Path(next(iter(find_spec(name).submodule_search_locations)))
