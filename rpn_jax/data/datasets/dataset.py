"""A split of a prepared dataset, and its records."""

import copy
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Bool, Float, Int

from rpn_jax.data.datasets.source import Example, present_classes
from rpn_jax.data.datasets.stored import DamagedError, Records
from rpn_jax.data.proposals import Image, StoredProposals
from rpn_jax.errors import UserError, list_some


class Record(NamedTuple):
    """One annotated image; boxes are x1, y1, x2, y2 in continuous pixels of the original image.

    All boxes have an area and lie within the image. `ignore` marks regions that are neither object
    nor background (VOC difficult, COCO crowd). `areas` are those of the boxes, for COCO those of
    the masks. `turn` is for `rpn_jax.data.images.decode_image`, whose pixels then are the boxes'.
    `masks` are those of all boxes, see `rpn_jax.data.masks`; None in a dataset without masks.
    """

    image_bytes: bytes
    filename: str
    image_id: int
    height: int
    width: int
    boxes: Float[np.ndarray, "n 4"]
    labels: Int[np.ndarray, " n"]
    ignore: Bool[np.ndarray, " n"]
    areas: Float[np.ndarray, " n"]
    turn: int = 1
    masks: Sequence[bytes] | None = None


class Dataset:
    """One split, with random access; indexing is thread-safe and decodes no pixels.

    Attributes:
      name: as given to `open_dataset`.
      split: the same.
      class_names: name of each label.
      heights: of the original images, known without reading them.
      widths: the same.
      num_objects: boxes of each image, ignore regions included.
      has_objects: whether any image has an object that is no ignore region.
      has_masks: whether any object has a mask.
      category_ids: the source's own id of each class, () where it has none.
      original_ids: the source's own id of each image where those are no numbers, else None.
      fingerprint: a hash of the file names, ids, boxes, labels and ignore flags.
      proposals: those that a file gives for the images, None without one.
      pixels: a hash of the encoded images; None for data that were prepared before it was kept.
      masks: a hash of the masks; None for data without any, and as above.
    """

    class_names: tuple[str, ...]
    heights: Int[np.ndarray, " N"]
    widths: Int[np.ndarray, " N"]
    num_objects: Int[np.ndarray, " N"]
    has_objects: bool
    has_masks: bool
    category_ids: tuple[int | str, ...]
    original_ids: tuple[int | str, ...] | None
    fingerprint: str
    proposals: StoredProposals | None = None
    pixels: str | None
    masks: str | None = None

    def __init__(
        self,
        name: str,
        split: str,
        file: pathlib.Path,
        index: Mapping[str, Any],
        read: Callable[[Mapping[str, Any], int, int], Example],
    ):
        """`file`, beside the records, holds the `index`; `read` makes an example of a record."""
        self.name = name
        self.split = split
        try:
            self.class_names = tuple(map(str, index["class_names"]))
            self.has_objects = index["report"]["splits"][split]["objects"] > 0
            # Version 0.1 kept no ids.
            self.category_ids = tuple(index.get("category_ids", ()))
            known = index["splits"][split]
            self.original_ids = known.get("original_ids")
            self.heights = np.array(known["heights"], np.int64)
            self.widths = np.array(known["widths"], np.int64)
            self.num_objects = np.array(known["num_objects"], np.int64)
            self.fingerprint = str(known["fingerprint"])
            self.pixels = known.get("pixels")
            self.masks = known.get("masks")
            self.has_masks = bool(known.get("has_masks"))
            self._classes = known.get("classes")
            # Data that version 0.1 prepared have boxes in what OpenCV decodes.
            turns = known.get("turns", [1] * len(self.heights))
            self._turns = np.array(turns, np.int64)
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise DamagedError(file, f"{type(error).__name__}: {error}") from error
        self._label_of = np.arange(len(self.class_names))
        self._read = read
        self._records = Records(file.parent, split)
        counts = {len(self._records), *map(len, (self.heights, self.widths, self._turns))}
        if len(counts) > 1:
            raise DamagedError(file, f"it tells of {len(self)} images of {len(self._records)}")

    def with_classes(self, class_names: Sequence[str], *, to_train: bool = False) -> "Dataset":
        """Returns the split with labels that are places in `class_names`.

        `to_train` says for the message that the detector can still get other classes.

        Raises:
          UserError: the dataset has a class that is not among them.
        """
        if unknown := [name for name in self.class_names if name not in class_names]:
            remedy = "measure it on data of its classes, or train it on these"
            if to_train:
                remedy = (
                    "add them to config.box.class_names, or set that to () for the data's own "
                    "classes, and give a new --workdir"
                )
            raise UserError(
                f"{self.name}: has {list_some(unknown)} among its classes, but the detector knows "
                f"only {list_some(class_names)}; {remedy}"
            )
        dataset = copy.copy(self)
        place_of = {name: place for place, name in enumerate(class_names)}
        dataset._label_of = np.array([place_of[name] for name in self.class_names], np.int64)
        id_of = dict(zip(self.class_names, self.category_ids, strict=False))
        dataset.class_names = tuple(class_names)
        dataset.category_ids = tuple(id_of.get(name, name) for name in class_names) if id_of else ()
        return dataset

    def with_proposals(self, proposals: StoredProposals) -> "Dataset":
        """Returns the split with proposals for its images."""
        dataset = copy.copy(self)
        dataset.proposals = proposals
        return dataset

    def images(self) -> list[Image]:
        """Returns the source's own id, the file and the size of each image; reads every record."""
        ids = self.original_ids or [None] * len(self)
        return [
            Image(record.image_id if i is None else i, record.filename, record.height, record.width)
            for i, record in zip(ids, map(self.__getitem__, range(len(self))), strict=True)
        ]

    def image_classes(self) -> Bool[np.ndarray, "N C"]:
        """Returns which classes have an object in each image; ignore regions do not count.

        Reads every record of data that were prepared before their index had it.
        """
        if self._classes is None:
            listed = [present_classes(self[i]) for i in range(len(self))]
        else:
            listed = [self._label_of[classes] for classes in self._classes]
        present = np.zeros((len(self), len(self.class_names)), bool)
        for row, classes in zip(present, listed, strict=True):
            row[classes] = True
        return present

    def __len__(self) -> int:
        return len(self.heights)

    def __getitem__(self, index: SupportsIndex) -> Record:
        index = range(len(self))[index]  # negative and out-of-range indices as in a list
        height, width = int(self.heights[index]), int(self.widths[index])
        example = self._read(self._records[index], height, width)
        return Record(
            image_bytes=example.image,
            filename=example.filename,
            image_id=example.image_id,
            height=height,
            width=width,
            boxes=example.boxes,
            labels=self._label_of[example.labels],
            ignore=example.ignore,
            areas=example.areas,
            turn=int(self._turns[index]),
            masks=example.masks,
        )
