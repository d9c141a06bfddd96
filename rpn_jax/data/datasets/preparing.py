"""Writes a dataset whole or not at all; says whether one that was written still fits its source.

DATA_DIR/NAME/SOURCE-HASH/1.0.0          the dataset
DATA_DIR/NAME/SOURCE-HASH/incomplete.…   one that is being written, or was when it was killed
DATA_DIR/NAME/SOURCE-HASH/lock           held by the process that writes
"""

import contextlib
import math
import os
import pathlib
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence

import grain
import numpy as np

from rpn_jax.data.datasets.builders import SourceBuilder, SourceConfig, quiet_tfds
from rpn_jax.data.datasets.dataset import Dataset, Record
from rpn_jax.data.datasets.source import Example, Finding, check_boxes, find_frame, read_checked
from rpn_jax.errors import UserError, first_line, list_some
from rpn_jax.files import locked
from rpn_jax.progress import progress_bar
from rpn_jax.text import printable

_INCOMPLETE = "incomplete."  # as TFDS names what it has not finished


def has_leftovers(folder: pathlib.Path) -> bool:
    """Returns whether a preparation has left something in a dataset's folder, or is at work."""
    return os.access(folder, os.W_OK) and any(folder.glob(f"{_INCOMPLETE}*"))


@contextlib.contextmanager
def claimed(folder: pathlib.Path) -> Iterator[None]:
    """Keeps other preparations out of a dataset's folder, or waits for the one that is in it.

    What preparations that were killed have left there, and in the folders beside it, is removed.

    Raises:
      UserError: the folder cannot be written.
    """
    with contextlib.ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _lock(folder / "lock", held)
        except OSError as error:
            raise UserError(
                f"{folder}: cannot hold datasets ({error.strerror}); give another data_dir"
            ) from error
        _clear(folder)
        for other in {left.parent for left in folder.parent.glob(f"*/{_INCOMPLETE}*")}:
            # Not one that is being prepared.
            with (
                contextlib.suppress(OSError, UserError),
                locked(other / "lock", "", seconds=0.0),
            ):
                _clear(other)
        yield


def _clear(folder: pathlib.Path) -> None:
    for left in [*folder.glob(f"{_INCOMPLETE}*"), *folder.glob("*/.*.tmp")]:
        shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink()


def _lock(file: pathlib.Path, held: contextlib.ExitStack) -> None:
    try:
        held.enter_context(locked(file, f"{file.parent}: is being prepared by {{holder}}"))
    except UserError as busy:
        print(printable(f"{busy}; waiting for its end"), file=sys.stderr)
        held.enter_context(locked(file, "", seconds=math.inf))


def write(
    builder_class: type[SourceBuilder], config: SourceConfig, directory: pathlib.Path
) -> None:
    """Prepares the config's source; a `directory` that is there is replaced at the very end.

    Raises:
      UserError: something of the source cannot be used, or the disk not be written.
    """
    staging = directory.parent / f"{_INCOMPLETE}{uuid.uuid4().hex}"
    try:
        with quiet_tfds():
            builder = builder_class(data_dir=staging, config=config)
            builder.download_and_prepare(file_format="array_record")
        if directory.exists():
            directory.rename(staging / "replaced")
        pathlib.Path(builder.data_dir).rename(directory)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise UserError(
            f"{directory}: cannot be written ({reason}); make room, or give another data_dir"
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def first_change(config: SourceConfig, splits: Sequence[Dataset]) -> Finding | None:
    """Returns the first file of a source that is not as it was prepared, or None.

    Everything is compared and little decoded: the content of the images, what is annotated in
    them, and that what was left out is still to be left out. What was generated has no files; it
    is only read through.

    Raises:
      DamagedError: a record cannot be read.
    """
    for dataset in splits:
        if config.is_drawn:
            for i in range(len(dataset)):
                _ = dataset[i]
        elif dataset.class_names != tuple(config.source.class_names):
            names = list_some(config.source.class_names)
            return Finding(config.origin or config.dataset, f"its classes are {names}")
        elif change := _first_change(config, dataset, config.source.splits[dataset.split]):
            return change
    return None


def _first_change(
    config: SourceConfig, dataset: Dataset, readers: Sequence[Callable[[], Example]]
) -> Finding | None:
    def read(reader: Callable[[], Example]) -> tuple[Callable[[], Example], Example | None]:
        try:
            return reader, reader()
        except (OSError, UserError):
            return reader, None

    options = grain.ReadOptions(num_threads=os.cpu_count() or 1, prefetch_buffer_size=64)
    examples = grain.MapDataset.source(readers).map(read).to_iter_dataset(options)
    bar = dict(description=f"comparing {dataset.split}", total=len(readers), unit="image", delay=2)
    position = 0  # of the next record that is yet without its image
    for reader, example in progress_bar(examples, **bar):
        record = dataset[position] if position < len(dataset) else None
        if example and record and example.filename == record.filename:
            if what := _difference(example, record, config.orientation):
                return Finding(example.filename, what)
            position += 1
            continue
        checked = read_checked(reader, skip_bad=True, orientation=config.orientation)
        if isinstance(checked, Finding):  # left out, as it was then
            continue
        if example.filename not in {dataset[i].filename for i in range(len(dataset))}:
            return Finding(example.filename, "it is new, or could not be used before")
        break
    if position < len(dataset):
        return Finding(dataset[position].filename, "it cannot be used any more")
    return None


def _difference(example: Example, record: Record, orientation: str | None) -> str | None:
    """Returns what of an image is not as it was prepared, or None."""
    if example.image != record.image_bytes:
        return "the file is another"
    try:
        frame = find_frame(example, orientation)
    except UserError as error:
        return Finding.of(error).what
    if (frame.height, frame.width, frame.turn) != (record.height, record.width, record.turn):
        return f"its boxes were taken in other pixels (EXIF orientation {frame.orientation})"
    now = check_boxes(example, frame.height, frame.width, skip_bad=True).example
    same = now.image_id == record.image_id and all(
        np.array_equal(getattr(now, field), getattr(record, field))
        for field in ("boxes", "labels", "ignore", "areas")
    )
    if not same:
        return "its annotation is another"
    # Data of before have no masks, which `prepare --anew` adds.
    same = record.masks is None or list(record.masks) == list(now.masks or ())
    return None if same else "its masks are others"
