"""What a step minimises, one small file per term.

A term over rows or tokens gives a sum, and the count that the loss is divided by; a term over weights is a hook that
adds its gradient once per step. Both are the same for any number of passes and processes.
"""

from finetune_trainer.objectives.anchor import anchoring
from finetune_trainer.objectives.classes import ClassLoss, balanced_weights
from finetune_trainer.objectives.errors import error_losses
from finetune_trainer.objectives.tokens import choice_losses, ctc_losses, token_losses

__all__ = ["ClassLoss", "anchoring", "balanced_weights", "choice_losses", "ctc_losses", "error_losses", "token_losses"]
