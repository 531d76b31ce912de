"""How far scores are from other scores of the same elements.

Legend: K elements, C classes or labels.
"""

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from finetune_trainer.tasks.scoring import COUNTS, Kind


def divergences(kind: Kind, wanted_KC: Tensor, scores_KC: Tensor) -> Tensor:
    """Return KL(wanted || scores) of each element in nats, for labels summed over them; for a number its squared error.

    Args:
        kind: What the scores are.
        wanted_KC: Unnormalised scores that say what is wanted.
        scores_KC: Unnormalised scores.

    Returns:
        [K].
    """
    if kind == "number":
        return (wanted_KC - scores_KC).square().sum(dim=-1)
    if kind == "one":
        wanted, found = F.log_softmax(wanted_KC, dim=-1), F.log_softmax(scores_KC, dim=-1)
        return F.kl_div(found, wanted, reduction="none", log_target=True).sum(dim=-1)
    sides = (F.logsigmoid(sign * each) for sign in (1.0, -1.0) for each in (scores_KC, wanted_KC))
    found, wanted, not_found, not_wanted = sides
    holds = F.kl_div(found, wanted, reduction="none", log_target=True)
    return (holds + F.kl_div(not_found, not_wanted, reduction="none", log_target=True)).sum(dim=-1)


def symmetric(kind: Kind, one_KC: Tensor, other_KC: Tensor) -> Tensor:
    """Return the mean of both directions, [K]."""
    return 0.5 * (divergences(kind, one_KC, other_KC) + divergences(kind, other_KC, one_KC))


def counted(values_K: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
    """Return values of elements, each as often as its element counts."""
    return values_K * targets[COUNTS] if COUNTS in targets else values_K
