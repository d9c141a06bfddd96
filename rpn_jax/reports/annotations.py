"""The page of `prepare --report`: a dataset as it was prepared, to look at before it is used."""

import collections
import hashlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pycocotools.mask

from rpn_jax.data.datasets import Dataset
from rpn_jax.data.datasets.dataset import Record
from rpn_jax.data.datasets.report import SIZE_NAMES, PreparationReport
from rpn_jax.data.images import decode_image
from rpn_jax.data.masks import Masks
from rpn_jax.progress import progress_bar
from rpn_jax.reports.document import (
    Picture,
    Pictures,
    Section,
    Table,
    Text,
    write_document,
)
from rpn_jax.visualize.boxes import write_image
from rpn_jax.visualize.detections import draw_annotations
from rpn_jax.visualize.plots import COLORS, new_figure, plain_label, save_figure

_LONG_SIDE = 900  # pixels of a picture
_SHOWN = 6  # pictures of one kind of oddity
_LISTED = 100  # findings of the preparation, and images that are there twice
_CLASSES = 40  # bars of classes

_LEAST_SIDE = 3  # pixels
_WHOLE = 0.95  # of the image's sides
_LONGEST = 15  # times as long as wide
_SAME_PLACE = 0.9  # IoU
TWICE, TWO_CLASSES, SMALL, WHOLE, LONG = (
    "the same object twice",
    "two classes in one place",
    f"a side below {_LEAST_SIDE} pixels",
    "the whole image",
    f"more than {_LONGEST} times as long as wide",
)
ODDITIES = (TWICE, TWO_CLASSES, SMALL, WHOLE, LONG)


class Odd(NamedTuple):
    """Boxes of an image that a person should look at; `places` are theirs among the image's.

    `is_known` says that the same image was in a split before.
    """

    split: str
    index: int
    kind: str
    places: tuple[int, ...]
    is_known: bool


def write_annotations(
    report: PreparationReport,
    datasets: Mapping[str, Dataset],
    out: pathlib.Path,
    *,
    images: int = 12,
) -> None:
    """Writes `dataset.html` and `dataset.md` into the folder `out`, with their pictures.

    Args:
        report: of the preparation.
        datasets: its splits.
        out: folder to write.
        images: how many of each split to show; which ones is the same at each time.

    Raises:
        UserError: a file of the dataset is damaged, or `out` cannot be written.
    """
    odd, twice = _looked_through(datasets)
    sections = [
        Section("In numbers", [_table(report), *_plots(report, out)]),
        Section("To look at", _oddities(datasets, odd, out)),
    ]
    if twice:
        sections.append(Section("Images that are there twice", [_twice(twice, report.source)]))
    if findings := list(_findings(report)):
        table = Table(["file", "what", "split"], findings[:_LISTED], names=3)
        sections.append(Section("Changed, left out or noted", [*_how_many(findings), table]))
    for split, dataset in datasets.items():
        chosen = np.random.default_rng(0).permutation(len(dataset))[:images]
        pictures = [_picture(dataset, int(i), out) for i in np.sort(chosen)]
        text = f"{len(pictures)} of {len(dataset)} images, drawn at random."
        sections.append(Section(f"Split {split}", [Text(text), Pictures(pictures, are_wide=True)]))
    name = pathlib.PurePath(report.source).name if report.source else report.name
    write_document(f"{name}: what is annotated", sections, out, "dataset")


def _looked_through(
    datasets: Mapping[str, Dataset],
) -> tuple[list[Odd], list[dict[str, list[str]]]]:
    """Returns the boxes to look at, and files of the same bytes, each with its splits."""
    odd: list[Odd] = []
    places: dict[bytes, dict[str, list[str]]] = collections.defaultdict(dict)
    total = sum(map(len, datasets.values()))
    with progress_bar(total=total, description="looking through", unit="image") as bar:
        for split, dataset in datasets.items():
            for index in range(len(dataset)):
                record = dataset[index]
                splits = places[hashlib.blake2b(record.image_bytes).digest()]
                is_known = record.filename in splits
                odd += [Odd(split, index, *found, is_known) for found in odd_boxes(record)]
                splits.setdefault(record.filename, []).append(split)
                bar.update()
    # One file in two splits, as in VOC's train and trainval, is noted by the preparation.
    return odd, [files for files in places.values() if len(files) > 1]


def odd_boxes(record: Record) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields the kind, one of `ODDITIES`, and the places of an image's boxes to look at."""
    places = np.flatnonzero(~record.ignore)
    boxes, labels = record.boxes[places].astype(float), record.labels[places]
    sides = boxes[:, 2:] - boxes[:, :2]
    of_image = sides / [record.width, record.height]
    for kind, found in (
        (SMALL, sides.min(axis=1, initial=np.inf) < _LEAST_SIDE),
        (WHOLE, of_image.min(axis=1, initial=1) > _WHOLE),
        (LONG, sides.max(axis=1, initial=0) > _LONGEST * sides.min(axis=1, initial=np.inf)),
    ):
        for place in places[found].tolist():
            yield kind, (place,)
    if len(places) > 1:
        xywh = np.concatenate([boxes[:, :2], sides], axis=1)
        ious = pycocotools.mask.iou(xywh, xywh, np.zeros(len(places)))
        for a, b in np.argwhere(np.triu(ious > _SAME_PLACE, 1)).tolist():
            kind = TWICE if labels[a] == labels[b] else TWO_CLASSES
            yield kind, (int(places[a]), int(places[b]))


def _table(report: PreparationReport) -> Table:
    splits = list(report.splits.values())

    def row(name, values):
        return [name, *map(str, values)]

    rows = [
        row("images", [split.images for split in splits]),
        row("without an object", [split.images_without_objects for split in splits]),
        row("skipped", [len(split.skipped) for split in splits]),
        row("objects", [split.objects for split in splits]),
        row("with a mask", [split.masks for split in splits]),
        row("ignore regions", [split.ignored for split in splits]),
        row("classes without an object", [split.per_class.count(0) for split in splits]),
        row("boxes clipped", [len(split.clipped) for split in splits]),
        row("boxes dropped", [len(split.dropped) for split in splits]),
        row("annotations left out", [len(split.left_out) for split in splits]),
    ]
    origin = f"Read from {report.source}. " if report.source else ""
    return Table(["", *report.splits], rows, note=f"{origin}Prepared in {report.directory}.")


def _plots(report: PreparationReport, out: pathlib.Path) -> list[Pictures]:
    """Plots how many objects there are of each class and of each size, in each split."""
    total = np.sum([split.per_class for split in report.splits.values()], axis=0)
    classes = np.argsort(-total, kind="stable")[:_CLASSES]
    names = [plain_label(report.class_names[i]) for i in classes]
    per_class = {s: np.array(split.per_class)[classes] for s, split in report.splits.items()}
    sizes = {s: np.array(split.sizes) for s, split in report.splits.items()}
    left_out = f" (the commonest {_CLASSES} of {len(total)})" if len(total) > _CLASSES else ""
    pictures = []
    for file, labels, counts, text in (
        ("plots/classes.svg", names, per_class, f"Objects of each class in %{left_out}"),
        ("plots/sizes.svg", SIZE_NAMES, sizes, "Objects of each size in %: root of area, pixels"),
    ):
        _plot_bars(labels, counts, out / file)
        pictures.append(Picture(file, text, has_caption=True))
    return [Pictures(pictures, are_wide=True)]


def _plot_bars(labels: Sequence[str], counts: Mapping[str, np.ndarray], path: pathlib.Path) -> None:
    """Plots a row of bars for each label: the share of each split's objects, in per cent."""
    thickness = 0.8 / len(counts)
    figure, (axes,) = new_figure(5.0, 1.0 + 0.17 * len(labels) * max(len(counts), 1.5))
    rows = np.arange(len(labels))
    for i, (split, found) in enumerate(counts.items()):
        share = 100 * found / max(found.sum(), 1)
        place = rows + (i - (len(counts) - 1) / 2) * thickness
        color = COLORS[i % len(COLORS)]
        axes.barh(place, share, thickness, color=color, label=plain_label(split))
    axes.set_yticks(rows, labels)
    axes.set(xlabel="%", ylim=(len(labels) - 0.5, -0.5))
    axes.legend(frameon=False, ncols=len(counts), loc="lower left", bbox_to_anchor=(0, 1))
    save_figure(figure, path)


def _oddities(
    datasets: Mapping[str, Dataset], odd: Sequence[Odd], out: pathlib.Path
) -> list[Text | Table | Pictures]:
    """Returns a table of what is odd, and pictures of each kind."""
    if not odd:
        return [Text("Nothing is odd: no box is tiny, drawn twice, or of the whole image.")]
    counts = collections.Counter((one.kind, one.split) for one in odd)
    kinds = [kind for kind in ODDITIES if any(one.kind == kind for one in odd)]
    rows = [[kind, *(str(counts[kind, split]) for split in datasets)] for kind in kinds]
    parts: list[Text | Table | Pictures] = [
        Text("Not wrong for certain, and used as they are."),
        Table(["boxes", *datasets], rows),
    ]
    for kind in kinds:
        of_kind = [one for one in odd if one.kind == kind and not one.is_known]
        pictures = [
            _picture(datasets[one.split], one.index, out, one.places) for one in of_kind[:_SHOWN]
        ]
        text = f"{kind[0].upper()}{kind[1:]}: {len(pictures)} of {len(of_kind)}, by themselves."
        parts += [Text(text), Pictures(pictures, are_wide=True)]
    return parts


def _picture(
    dataset: Dataset, index: int, out: pathlib.Path, places: Sequence[int] | None = None
) -> Picture:
    """Writes an image with its annotations, or with some of them."""
    record = dataset[index]
    chosen = np.arange(len(record.boxes)) if places is None else np.array(places)
    masks = None
    if record.masks is not None:
        masks = Masks([record.masks[i] for i in chosen], record.height, record.width)
    picture = draw_annotations(
        decode_image(record.image_bytes, record.filename, record.turn),
        record.boxes[chosen],
        record.labels[chosen],
        record.ignore[chosen],
        dataset.class_names,
        masks=masks,
        long_side=_LONG_SIDE,
    )
    of_places = "" if places is None else f"_{'_'.join(map(str, places))}"
    file = f"pictures/{dataset.split}_{index:06d}{of_places}.jpg"
    write_image(out / file, picture)
    text = f"{pathlib.PurePath(record.filename).name}, {record.height} x {record.width} pixels"
    if places is not None:
        text += f", {dataset.split}: {_named(dataset, record, places)}"
    return Picture(file, text, has_caption=True)


def _named(dataset: Dataset, record: Record, places: Sequence[int]) -> str:
    boxes = record.boxes[list(places)]
    names = [dataset.class_names[record.labels[i]] for i in places]
    if len(places) == 1:
        width, height = (boxes[0, 2:] - boxes[0, :2]).tolist()
        return f"{names[0]}, {height:.0f} x {width:.0f}"
    return " and ".join(names)


def _twice(copies: Sequence[Mapping[str, Sequence[str]]], source: str | None) -> Table:
    note = f"{len(copies)} images are there under several names. Where one is in several splits, "
    note += "figures on images that were trained on say little."
    rows = [
        [", ".join(f"{_within(source, file)} ({', '.join(s)})" for file, s in files.items())]
        for files in copies[:_LISTED]
    ]
    return Table(["files with the same bytes"], rows, note=note)


def _within(source: str | None, file: str) -> str:
    """Returns a file's path within its source."""
    path = pathlib.PurePath(file)
    return str(path.relative_to(source)) if source and path.is_relative_to(source) else file


def _findings(report: PreparationReport) -> Iterator[list[str]]:
    for split, one in report.splits.items():
        for kind in (
            one.skipped,
            one.left_out,
            one.dropped,
            one.clipped,
            one.masks_left_out,
            one.noted,
        ):
            for finding in kind:
                yield [_within(report.source, finding.file), finding.what, split]


def _how_many(findings: Sequence[Sequence[str]]) -> list[Text]:
    if len(findings) <= _LISTED:
        return []
    return [Text(f"{_LISTED} of {len(findings)}; metadata.json of the dataset has all.")]
