"""Splits of several datasets as one, for a training."""

import copy
import hashlib
from collections.abc import Sequence
from typing import SupportsIndex

import numpy as np
from jaxtyping import Bool, Int

from rpn_jax.data.datasets.dataset import Dataset, Record
from rpn_jax.errors import UserError, list_some


class Joined(Dataset):
    """The images of several splits, one split after another; classes are in the first one's order.

    Attributes:
      parts: the splits.
    """

    parts: Sequence[Dataset]

    def __init__(self, parts: Sequence[Dataset], names: Sequence[str]):
        """`names` are those of the parts, for messages.

        Raises:
          UserError: a part has other classes than the first.
        """
        first = parts[0]
        for part, name in zip(parts, names, strict=True):
            missing = [c for c in first.class_names if c not in part.class_names]
            unknown = [c for c in part.class_names if c not in first.class_names]
            if missing or unknown:
                lacks = f"lacks {list_some(missing)}" if missing else ""
                has = f"has {list_some(unknown)} too" if unknown else ""
                raise UserError(
                    f"config.data.more_sources: of the classes of {names[0]}, {name} "
                    f"{' and '.join(filter(None, (lacks, has)))}; give folders of the same classes"
                )
        self.parts = [part.with_classes(first.class_names) for part in parts]
        self.name, self.split = first.name, first.split
        self.class_names, self.category_ids = first.class_names, first.category_ids
        self.has_objects = any(part.has_objects for part in parts)
        self.has_masks = all(part.has_masks for part in parts)
        self.original_ids = None
        self.heights, self.widths, self.num_objects = (
            np.concatenate([getattr(part, field) for part in parts])
            for field in ("heights", "widths", "num_objects")
        )
        self.fingerprint, self.pixels, self.masks = (
            _digest([getattr(part, field) for part in parts])
            for field in ("fingerprint", "pixels", "masks")
        )

    @property
    def part_of(self) -> Int[np.ndarray, " N"]:
        """The place of each image's split in `parts`."""
        return np.repeat(np.arange(len(self.parts)), list(map(len, self.parts)))

    def with_classes(self, class_names: Sequence[str], *, to_train: bool = False) -> "Joined":
        """Returns the splits with labels that are places in `class_names`, see `Dataset`."""
        joined = copy.copy(self)
        joined.parts = [part.with_classes(class_names, to_train=to_train) for part in self.parts]
        first = joined.parts[0]
        joined.class_names, joined.category_ids = first.class_names, first.category_ids
        return joined

    def image_classes(self) -> Bool[np.ndarray, "N C"]:
        """Returns which classes have an object in each image, see `Dataset`."""
        return np.concatenate([part.image_classes() for part in self.parts])

    def __getitem__(self, index: SupportsIndex) -> Record:
        index = range(len(self))[index]
        for part in self.parts:
            if index < len(part):
                break
            index -= len(part)
        return part[index]


def _digest(hashes: Sequence[str | None]) -> str | None:
    """Returns a hash of hashes; None where one is not known."""
    if None in hashes:
        return None
    return hashlib.sha256("\0".join(map(str, hashes)).encode()).hexdigest()
