"""What both sides know of metrics: which of them are better when they are lower."""

from typing import Final

LOWER_IS_BETTER: Final = frozenset({"loss", "perplexity", "mae", "rmse", "wer", "cer"})
"""All others are better when they are higher."""
