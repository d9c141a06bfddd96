"""What a dataset reader of one's own hands over, checked before anything is made of it."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from rpn_jax.data.annotations.segmentations import Mask
from rpn_jax.data.datasets.source import Example, Source
from rpn_jax.errors import UserError
from rpn_jax.parts import running, wrong_part


def check_source(field: str, path: str, source: object) -> Source:
    """Returns a source, each of whose examples is checked as soon as it is read.

    Args:
      field: the config's field that has the path, for messages.
      path: the reader's import path.
      source: what the reader returned.

    Raises:
      UserError: it is no `Source`, or has no classes, or splits of another form.
    """
    if not isinstance(source, Source):
        raise wrong_part(field, path, f"returns no Source, but {type(source).__name__}")
    names = source.class_names
    if not _is_list_of(str, names) or not names or len(set(names)) < len(names):
        raise wrong_part(field, path, f"gives class_names={names!r}, which must be different texts")
    splits = source.splits
    if not isinstance(splits, Mapping) or not _is_list_of(str, [*splits]) or not splits:
        raise wrong_part(field, path, "gives as splits no mapping from names to functions")
    for split, readers in splits.items():
        if isinstance(readers, str) or not isinstance(readers, Sequence):
            raise wrong_part(field, path, f"gives as split {split!r} no list of functions")
        if not all(map(callable, readers)):
            raise wrong_part(field, path, f"gives in split {split!r} what is no function")
    read = functools.partial(_read, field, path, source)
    checked = {
        split: [functools.partial(read, reader) for reader in readers]
        for split, readers in splits.items()
    }
    return source._replace(splits=checked)


def _is_list_of(kind: type, values: Any) -> bool:
    return isinstance(values, list | tuple) and all(isinstance(value, kind) for value in values)


def _read(field: str, path: str, source: Source, reader: Callable[[], Example]) -> Example:
    """Returns what a reader reads, with arrays of the types and lengths that an example has."""
    with running(field, path, reads_files=True):
        example = reader()
    if not isinstance(example, Example):
        raise wrong_part(field, path, f"reads no Example, but {type(example).__name__}")

    def wrong(name: str, what: str) -> NoReturn:
        raise UserError(f"{example.filename}: Example.{name} {what}; correct {path}")

    for name, kind in {"filename": str, "image": bytes, "image_id": int | np.integer}.items():
        if not isinstance(getattr(example, name), kind):
            wrong(name, f"is {getattr(example, name)!r:.60}")
    boxes = _array(example.boxes, np.float64)
    if boxes is None or boxes.size and (boxes.ndim != 2 or boxes.shape[1] != 4):
        wrong("boxes", "is no array (n, 4) of x1, y1, x2, y2")
    boxes = boxes.reshape(-1, 4)
    labels = _array(example.labels, np.float64)
    classes = len(source.class_names)
    if labels is None or not np.isin(labels, np.arange(classes)).all():
        wrong("labels", f"must be whole numbers from 0 to {classes - 1}, the places of class_names")
    ignore = np.asarray(example.ignore, bool)
    areas = None if example.areas is None else _array(example.areas, np.float64)
    for name, values in {"labels": labels, "ignore": ignore, "areas": areas}.items():
        if values is None and getattr(example, name) is not None:
            wrong(name, "is no array of numbers")
        if values is not None and values.shape != (len(boxes),):
            wrong(name, f"has the shape {values.shape}, for {len(boxes)} boxes")
    if len(example.origins) not in (0, len(boxes)):
        wrong("origins", f"has {len(example.origins)} entries, for {len(boxes)} boxes")
    if (example.read_masks is not None) != source.has_masks:
        kind = "a function" if source.has_masks else "None"
        wrong("read_masks", f"must be {kind}, as Source.has_masks is {source.has_masks}")

    def read_masks(height: int, width: int) -> Sequence[Mask]:
        with running(field, path, reads_files=True):
            masks = example.read_masks(height, width)
        if not _is_list_of(Mask, masks) or len(masks) != len(boxes):
            wrong("read_masks", f"must return a Mask for each of the {len(boxes)} boxes")
        return masks

    return example._replace(
        boxes=boxes,
        labels=labels.astype(np.int64),
        ignore=ignore,
        areas=areas,
        read_masks=example.read_masks and read_masks,
    )


def _array(values: Any, dtype: type) -> np.ndarray | None:
    """Returns the values as an array; None if they are none of that type."""
    try:
        return np.asarray(values, dtype)
    except (TypeError, ValueError):
        return None
