"""How well images and texts find each other among all of a set, from their vectors.

A text that several images have, or an image with several texts, stands once in what is searched, and each of its
partners is right. That is how recall is told for photos with five captions.

Legend: N rows, Q queries, G what is searched, D width of a vector.
"""

from collections.abc import Sequence

import numpy as np

from finetune_trainer.data.table import Array

_CHUNK = 1024


def recalls(images_ND: Array, texts_ND: Array, names: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Return in what part of the searches a right one is the first, and among the first five.

    Args:
        images_ND: The image's vector of each row, of length one.
        texts_ND: The text's.
        names: What tells each row's image and text from others.

    Returns:
        Recall of texts for images, and of images for texts.
    """
    found: dict[str, float] = {}
    sides = (images_ND, texts_ND)
    for name, asked, searched in (("image_to_text", 0, 1), ("text_to_image", 1, 0)):
        ranks = _ranks(
            sides[asked], sides[searched], [each[asked] for each in names], [each[searched] for each in names]
        )
        found |= {f"{name}_recall_at_{most}": float((ranks <= most).mean()) for most in (1, 5)}
    return found


def nearest(vectors_ND: Array, choices_ND: Array, names: Sequence[str]) -> list[str]:
    """Return for each vector the name of the nearest choice; choices of one name are one."""
    first, names_G = _distinct(names)
    return [names_G[at] for at in (vectors_ND @ choices_ND[first].T).argmax(axis=1)]


def _ranks(queries_ND: Array, searched_ND: Array, queries: Sequence[str], searched: Sequence[str]) -> Array:
    """Return the place of the best right one for each distinct query, from 1, [Q]."""
    first_Q, names_Q = _distinct(queries)
    first_G, names_G = _distinct(searched)
    place_Q, place_G = ({name: at for at, name in enumerate(names)} for names in (names_Q, names_G))
    gallery_GD = searched_ND[first_G].astype(np.float64)
    right: list[set[int]] = [set() for _ in names_Q]
    for query, name in zip(queries, searched, strict=True):
        right[place_Q[query]].add(place_G[name])
    ranks: list[int] = []
    for start in range(0, len(first_Q), _CHUNK):
        scores_QG = queries_ND[first_Q[start : start + _CHUNK]].astype(np.float64) @ gallery_GD.T
        for scores_G, mine in zip(scores_QG, right[start : start + _CHUNK], strict=True):
            ranks.append(1 + int((scores_G > max(scores_G[at] for at in mine)).sum()))
    return np.array(ranks)


def _distinct(names: Sequence[str]) -> tuple[list[int], list[str]]:
    """Return where each name stands first, and the names, in that order."""
    first: dict[str, int] = {}
    for at, name in enumerate(names):
        first.setdefault(name, at)
    return list(first.values()), list(first)
