"""The TFDS builders of this package: they write any `Source` as ArrayRecord files.

Images stay the bytes that they were; boxes are stored as x1, y1, x2, y2 in pixels. What can be
known without decoding (sizes, counts, the report) goes into TFDS's `metadata.json`. TFDS writes to
a temporary directory that it renames at the end, so a preparation that was cut short leaves no
dataset behind.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from rpn_jax.data.datasets.report import PreparationReport, tally
from rpn_jax.data.datasets.source import (
    CheckedExample,
    Finding,
    Source,
    present_classes,
    read_checked,
)
from rpn_jax.errors import UserError
from rpn_jax.progress import progress_bar


@dataclasses.dataclass(eq=False)
class SourceConfig(tfds.core.BuilderConfig):
    """What is to be prepared: a source, and what to record of where it came from.

    `dataset` is its name for `open_dataset`. `origin` is the absolute folder that the source was
    read from, None without one. What `is_drawn` from a seed has no files that could change.
    """

    dataset: str = ""
    source: Source | None = dataclasses.field(default=None, repr=False)
    origin: str | None = None
    skip_bad: bool = False
    orientation: str | None = None
    is_drawn: bool = False


class _Info(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """Does nothing; TFDS's own leaves a temporary folder behind at every call."""


class SourceBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes the splits of its config's source, in the source's order.

    Reading needs none of this: `tfds.builder_from_directory` knows all from the files.
    """

    VERSION = tfds.core.Version("1.0.0")
    # Nothing is downloaded; TFDS's own look-up imports a package that it does not depend on.
    url_infos = None

    def _info(self) -> tfds.core.DatasetInfo:
        class_label = tfds.features.ClassLabel(names=self.builder_config.source.class_names)
        features: dict[str, Any] = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "image/filename": tfds.features.Text(),
            "image/id": np.int64,
            "objects": {
                "boxes": tfds.features.Tensor(shape=(None, 4), dtype=np.float32),
                "label": tfds.features.Sequence(class_label),
                "ignore": tfds.features.Tensor(shape=(None,), dtype=np.bool_),
                "area": tfds.features.Tensor(shape=(None,), dtype=np.float32),
            },
        }
        if self.builder_config.source.has_masks:
            features["objects"]["masks"] = tfds.features.Sequence(tfds.features.Text())
        return _Info(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,  # index i of a split is the source's example i
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        config = self.builder_config
        source = config.source
        audit = Audit(config.dataset, config.origin, source.class_names, source)
        self.info.metadata["annotations"] = config.source.digest
        return {split: self._generate_examples(split, audit) for split in config.source.splits}

    def _generate_examples(self, split: str, audit: "Audit") -> Iterator[tuple[int, dict]]:
        config = self.builder_config
        readers = [
            functools.partial(
                read_checked, reader, skip_bad=config.skip_bad, orientation=config.orientation
            )
            for reader in config.source.splits[split]
        ]
        for key, checked in enumerate(audit.check(split, readers)):
            example = checked.example
            masks = {"masks": example.masks} if config.source.has_masks else {}
            yield (
                key,
                {
                    "image": io.BytesIO(example.image),
                    "image/filename": example.filename,
                    "image/id": example.image_id,
                    "objects": {
                        "boxes": example.boxes,
                        "label": example.labels,
                        "ignore": example.ignore,
                        "area": example.areas,
                        **masks,
                    },
                },
            )
        self.info.metadata.update(audit.index())  # the last split leaves it complete


class Shapes(SourceBuilder):
    """See `rpn_jax.data.datasets.shapes`."""

    VERSION = tfds.core.Version("2.0.0")  # one more whenever the same options draw something else


class VocFolder(SourceBuilder):
    """See `rpn_jax.data.datasets.voc_folder`."""


class CocoJson(SourceBuilder):
    """See `rpn_jax.data.datasets.coco_json`."""


class Yolo(SourceBuilder):
    """See `rpn_jax.data.datasets.yolo`."""


class Own(SourceBuilder):
    """Of a reader that is named by an import path."""


class Audit:
    """Decodes and checks every image of a dataset once, and remembers what it saw of each split."""

    def __init__(
        self,
        name: str,
        origin: str | None,
        class_names: Sequence[str],
        source: Source | None = None,
    ):
        self._class_names = list(class_names)
        self._source = source or Source(tuple(class_names), {}, "")
        self._report = PreparationReport(name, origin, self._class_names, {})
        self._splits: dict[str, dict[str, Any]] = {}
        # The first file whose size says that boxes are in stored pixels, and the first of which
        # nothing says in which they are.
        self._stored: str | None = None
        self._guessed: str | None = None

    def check(
        self, split: str, readers: Sequence[Callable[[], CheckedExample | Finding]]
    ) -> Iterator[CheckedExample]:
        """Yields the usable examples of a split, in order, under a progress bar."""
        summaries, skipped = [], []
        digest, pixels, masks = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
        checks = grain.MapDataset.source(readers).map(lambda read: read())
        # OpenCV lets go of the interpreter while it decodes. The buffer holds encoded images.
        options = grain.ReadOptions(num_threads=os.cpu_count() or 1, prefetch_buffer_size=64)
        for checked in progress_bar(
            checks.to_iter_dataset(options),
            description=f"{self._report.name} {split}",
            total=len(readers),
            unit="image",
        ):
            if isinstance(checked, Finding):
                skipped.append(checked)
                continue
            _digest_example(digest, checked)
            pixels.update(hashlib.sha256(checked.example.image).digest())
            for counts in checked.example.masks or ():
                masks.update(hashlib.sha256(counts).digest())
            self._compare_frames(checked)
            yield checked
            # All but the pixels are kept until the split is done.
            summaries.append(checked._replace(example=checked.example._replace(image=b"")))
        if not summaries:
            raise UserError(f"{self._report.name}: split {split} has no usable image")
        report = tally(summaries, len(self._class_names), skipped)
        report.left_out += self._source.left_out.get(split, ())
        report.noted += self._source.noted.get(split, ())
        self._report.splits[split] = report
        self._splits[split] = {
            "heights": [s.height for s in summaries],
            "widths": [s.width for s in summaries],
            "num_objects": [len(s.example.boxes) for s in summaries],
            "classes": [present_classes(s.example) for s in summaries],
            "turns": [s.frame.turn if s.frame else 1 for s in summaries],
            "fingerprint": digest.hexdigest(),
            "pixels": pixels.hexdigest(),
        }
        if self._source.has_masks:
            self._splits[split]["has_masks"] = report.masks > 0
            self._splits[split]["masks"] = masks.hexdigest()
        ids = [s.example.original_id for s in summaries]
        if any(isinstance(image_id, str) for image_id in ids):
            self._splits[split]["original_ids"] = ids

    def _compare_frames(self, checked: CheckedExample) -> None:
        """Raises a `UserError` if sizes say "stored" of one image, and another's is a guess."""
        frame, file = checked.frame, checked.example.filename
        if frame and frame.meant == "stored" and frame.known_by == "size":
            self._stored = self._stored or file
        if frame and frame.known_by == "default":
            self._guessed = self._guessed or file
        if self._stored and self._guessed:
            raise UserError(
                f"{self._guessed}: has an EXIF orientation, and no size that says whether its "
                f"boxes are in the pixels shown or stored; those of {self._stored} are in stored "
                "pixels; give the dataset the option orientation=stored (or shown)"
            )

    def index(self) -> dict[str, Any]:
        """Returns what is stored beside the data, as JSON can hold it."""
        return {
            "source": self._report.source,
            "class_names": self._class_names,
            "category_ids": list(self._source.category_ids),
            "splits": self._splits,
            "report": self._report.asdict(),
        }


def _digest_example(digest: Any, checked: CheckedExample) -> None:
    example = checked.example
    digest.update(f"{os.path.basename(example.filename)}\0{example.image_id}\0".encode())
    for values in (example.boxes, example.labels, example.ignore):
        digest.update(np.ascontiguousarray(values).tobytes())
    if checked.frame and checked.frame.turn != 1:
        digest.update(f"turn {checked.frame.turn}".encode())


@contextlib.contextmanager
def quiet_tfds() -> Iterator[None]:
    """Within it TFDS prints nothing: the one progress bar is the audit's, on standard error."""
    verbosity = logging.get_verbosity()
    tfds.display_progress_bar(False)
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
        tfds.display_progress_bar(True)
