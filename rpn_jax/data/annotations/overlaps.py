"""Images that several splits hold, or that one split lists several times."""

import collections
import itertools
import os
import pathlib
from collections.abc import Mapping, Sequence

from rpn_jax.errors import list_some

_WITHIN = frozenset(("train", "val"))  # VOC's trainval is both of them


def shared_images(splits: Mapping[str, Sequence[pathlib.Path]]) -> dict[str, str]:
    """Returns what to say of each split that holds images of a split before it."""
    found: dict[str, list[str]] = {}
    for one, other in itertools.combinations(splits, 2):
        if "trainval" in (one, other) and _WITHIN & {one, other}:
            continue
        shared = sorted(set(splits[one]) & set(splits[other]))
        if shared:
            names = list_some(map(os.path.basename, shared))
            found.setdefault(other, []).append(f"{len(shared)} with {one} ({names})")
    return {
        split: f"split {split} shares images: {'; '.join(shares)}; figures on images that were "
        "trained on say little"
        for split, shares in found.items()
    }


def repeated(names: Sequence[str]) -> list[str]:
    """Returns the names that stand there more than once."""
    return sorted(name for name, count in collections.Counter(names).items() if count > 1)
