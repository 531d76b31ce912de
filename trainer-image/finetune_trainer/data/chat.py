"""Which tokens of a conversation are learned: the assistant's, found by rendering prefixes.

The template renders the conversation up to and including each assistant's turn, and up to its beginning with the
generation prompt; the text between the two is what the model is to write. No marker of any template is searched for.
"""

from collections.abc import Mapping, Sequence

from finetune_trainer.data.tokenizer import Tokenizer
from finetune_trainer.errors import ConfigError

Piece = tuple[str, bool]


def chat_pieces(tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]]) -> list[Piece]:
    """Cut a rendered conversation into pieces.

    Args:
        tokenizer: With the model's chat template.
        messages: Objects with role and content, one at least the assistant's.

    Returns:
        Pairs of text and whether it is learned; joined, they are the whole rendering up to the last learned piece.

    Raises:
        ConfigError: The template changes earlier turns when later ones are added, so that no prefix exists.
    """
    pieces: list[Piece] = []
    done = ""
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        opening = tokenizer.render_chat(messages[:index], add_generation_prompt=True)
        whole = tokenizer.render_chat(messages[: index + 1])
        if not (opening.startswith(done) and whole.startswith(opening)):
            raise ConfigError(
                "the model's chat template rewrites earlier turns, so the assistant's words cannot be located",
                remedy="Train on conversations with one assistant turn, or on prompt and completion.",
            )
        pieces += [(opening[len(done) :], False), (whole[len(opening) :], True)]
        done = whole
    return [piece for piece in pieces if piece[0]]
