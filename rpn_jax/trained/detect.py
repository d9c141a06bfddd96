"""What a trained network finds in images and videos, or in a prepared split, written to files."""

import collections
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from rpn_jax.data.datasets import Dataset
from rpn_jax.data.images import decode_image
from rpn_jax.data.proposals import StoredProposals
from rpn_jax.data.videos import Frame, is_video, read_frames
from rpn_jax.errors import UserError
from rpn_jax.evaluation.coco import to_coco_detections, to_coco_results
from rpn_jax.files import write_npz, write_text
from rpn_jax.progress import progress_bar
from rpn_jax.text import printable
from rpn_jax.trained.load import check_detects, check_proposes, load_trained
from rpn_jax.trained.yolo import yolo_config, yolo_rows
from rpn_jax.training.predict import ImageSource, PredictedImage, Predictor
from rpn_jax.training.splits import open_split, with_proposals
from rpn_jax.visualize.boxes import draw_proposals, write_image
from rpn_jax.visualize.detections import draw_detections
from rpn_jax.visualize.videos import writing_video

_LONGEST_NAME = 240  # bytes, without a suffix; file systems allow 255


class _Images(NamedTuple):
    """Images to look at.

    Fields:
      sources: files, or pixels.
      ids: of the results, by image.
      file_names: of the results, by image.
      names: of what is written of each image; empty for a split, of which there is one file.
      proposals: those that a detector without an RPN looks at.
      pixels: the split's `Dataset.pixels`, "" where it is not known.
    """

    sources: Sequence[ImageSource]
    ids: Sequence[int | str]
    file_names: Sequence[str]
    names: Sequence[str] = ()
    proposals: StoredProposals | None = None
    pixels: str = ""


def write_proposals(
    config: ConfigDict,
    place: pathlib.Path,
    paths: Sequence[pathlib.Path],
    out: pathlib.Path,
    *,
    split: str | None = None,
    step: int | str | None = None,
    settings: str = "test",
    file_format: str = "json",
    draw: int = 20,
) -> list[str]:
    """Writes the proposals of images and videos, drawn with the best `draw`, into a folder `out`.

    With `split`, they are those of a prepared split's images, with the ids of the dataset and
    without pictures, which a Fast R-CNN can be trained on. For `place` and `step` see
    `load_trained`, for `settings` `RPN.with_counts`. Returns a line for each file that could not be
    read; proposals of the others are written.

    Raises:
        UserError: the network has no RPN, or the split is not prepared.
    """
    check_proposes(config, place)
    images, category_id = _of_files(paths), 1
    if split:
        dataset = open_split(config, split, needs_masks=False)
        images, category_id = _of_split(dataset), next(iter(dataset.category_ids), 1)
    detector, variables, _ = load_trained(config, place, step)
    predictor = Predictor(config, detector.rpn().with_counts(settings), variables)

    def picture(image: PredictedImage) -> np.ndarray | None:
        if not draw:
            return None
        return draw_proposals(image.pixels, image.boxes, image.scores, top_n=draw)

    def rows(image_id: int | str, image: PredictedImage) -> list[dict]:
        return to_coco_results(image_id, image.boxes, image.scores, category_id)

    output = _Output(out, "proposals", file_format, rows, picture, ("object",))
    return _write(predictor, images, paths, output)


def write_detections(
    config: ConfigDict,
    place: pathlib.Path,
    paths: Sequence[pathlib.Path],
    out: pathlib.Path,
    *,
    split: str | None = None,
    step: int | str | None = None,
    file_format: str = "json",
    draw_above: float = 0.5,
) -> list[str]:
    """Writes the detections in images and videos, and those drawn, into the folder `out`.

    A drawing has the detections of scores above `draw_above`. For `split`, `place` and `step` see
    `write_proposals`. Returns a line for each file that could not be read; what was found in the
    others is written.

    Raises:
        UserError: the network has no classes, or no RPN and there is no `split` with proposals.
    """
    check_detects(config, place)
    names = config.box.class_names
    category_ids = config.box.category_ids or range(1, len(names) + 1)
    if split:
        dataset = open_split(config, split, needs_masks=False)
        images = _of_split(with_proposals(config, dataset, "eval"))
        # Data other than those of the training may have other ids of the same classes.
        category_ids = dataset.category_ids or category_ids
    else:
        check_proposes(config, place)
        images = _of_files(paths)
    detector, variables, _ = load_trained(config, place, step)

    def picture(image: PredictedImage) -> np.ndarray:
        shown = image.scores > draw_above
        found = image.boxes[shown], image.scores[shown], image.labels[shown]
        masks = None if image.masks is None else image.masks[shown]
        return draw_detections(image.pixels, *found, names, masks=masks)

    def rows(image_id: int | str, image: PredictedImage) -> list[dict]:
        return detection_rows(image_id, image, category_ids, names)

    predictor = Predictor(config, detector, variables)
    output = _Output(out, "detections", file_format, rows, picture, names)
    return _write(predictor, images, paths, output)


def detection_rows(
    image_id: int | str,
    image: PredictedImage,
    category_ids: Sequence[int | str],
    names: Sequence[str],
) -> list[dict]:
    """Returns an image's detections as entries of COCO's list of results, with names of classes.

    Masks are there as "segmentation", as COCO's results of instance segmentation have them.
    """
    assert image.labels is not None
    found = to_coco_detections(image_id, image.boxes, image.scores, image.labels, category_ids)
    named = zip(found, image.labels, strict=True)
    rows = [{**row, "category": names[label]} for row, label in named]
    if image.masks is None:
        return rows
    return [
        {**row, "segmentation": runs} for row, runs in zip(rows, image.masks.to_coco(), strict=True)
    ]


def _of_files(paths: Sequence[pathlib.Path]) -> _Images:
    files = {path: name for path, name in _named(paths) if not is_video(path)}
    ids = range(1, len(files) + 1)
    return _Images(list(files), ids, list(map(str, files)), list(files.values()))


def _named(paths: Sequence[pathlib.Path]) -> Iterator[tuple[pathlib.Path, str]]:
    return zip(paths, output_names(paths), strict=True)


def _of_split(dataset: Dataset) -> _Images:
    listed = dataset.images()
    return _Images(
        _Pixels(dataset),
        [image.id for image in listed],
        [image.filename for image in listed],
        proposals=dataset.proposals,
        pixels=dataset.pixels or "",
    )


class _Pixels(Sequence):
    """The images of a split, decoded when they are asked for."""

    def __init__(self, dataset: Dataset):
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: Any) -> UInt8[np.ndarray, "H W 3"]:
        record = self._dataset[index]
        return decode_image(record.image_bytes, record.filename, record.turn)


class _Output:
    """Results as they come, and the files that they are written to."""

    def __init__(
        self,
        out: pathlib.Path,
        kind: str,
        file_format: str,
        rows_of: Callable[[int | str, PredictedImage], list[dict]],
        picture_of: Callable[[PredictedImage], np.ndarray | None],
        class_names: Sequence[str],
    ):
        self._out, self._kind, self._format = out, kind, file_format
        self._rows_of, self._picture_of = rows_of, picture_of
        self._class_names = class_names
        self._texts: list[str] = []

    def add_images(self, predictor: Predictor, images: _Images) -> list[str]:
        """Adds what is found in images; returns a line for each file that could not be read."""
        failures, texts, arrays = [], {}, {}
        names = images.names or output_names([*map(pathlib.Path, images.file_names)])
        for image in predictor.predict(images.sources, proposals=images.proposals):
            if image.error and not images.names:
                raise UserError(image.error)
            if image.error:
                failures.append(image.error)
                continue
            if self._format == "npz":
                arrays[image.index] = _arrays_of(image)
            elif self._format == "yolo":
                self._write_rows(names[image.index], image)
            else:
                file_name = images.file_names[image.index]
                texts[image.index] = self._text(images.ids[image.index], image, file_name=file_name)
            if images.names:
                name = images.names[image.index]
                if self._format == "npz":
                    write_npz(self._out / f"{name}.npz", **arrays.pop(image.index))
                picture = self._picture_of(image)
                if picture is not None:
                    write_image(self._out / "pictures" / f"{name}.jpg", picture)
        self._texts += [texts[index] for index in sorted(texts)]
        if arrays:
            write_npz(self._out / f"{self._kind}.npz", **_of_all(images, arrays))
        return failures

    def add_video(
        self, predictor: Predictor, path: pathlib.Path, name: str, first_id: int
    ) -> tuple[int, list[str]]:
        """Adds what is found in a video's frames, whose ids are from `first_id` on.

        Returns the number of frames, and a line if they could not all be read.
        """
        failures: list[str] = []
        frames: list[Frame] = []
        found: list[dict[str, np.ndarray]] = []

        def pixels():
            try:
                bar = {"description": printable(path.name), "unit": "frame"}
                for frame in progress_bar(read_frames(path), **bar):
                    frames.append(frame._replace(pixels=None))
                    yield frame.pixels
            except UserError as error:
                failures.append(str(error))

        with writing_video(self._out / "videos" / f"{name}.mp4") as add:
            for image in predictor.predict_stream(pixels()):
                frame = frames[image.index]
                place = {"file_name": str(path), "frame": frame.index, "seconds": frame.seconds}
                if self._format == "json":
                    self._texts.append(self._text(first_id + frame.index, image, **place))
                elif self._format == "yolo":
                    self._write_rows(f"{name}_{frame.index}", image)
                else:
                    count = len(image.scores)
                    more = {"frames": frame.index, "seconds": frame.seconds}
                    repeated = {key: np.repeat(value, count) for key, value in more.items()}
                    found.append({**_arrays_of(image), **repeated})
                picture = self._picture_of(image)
                if picture is not None:
                    add(picture, frame.rate)
        if found:
            joined = {key: np.concatenate([each[key] for each in found]) for key in found[0]}
            write_npz(self._out / f"{name}.npz", **joined)
        return len(frames), failures

    def _write_rows(self, name: str, image: PredictedImage) -> None:
        write_text(self._out / "labels" / f"{name}.txt", yolo_rows(image))

    def _text(self, image_id: int | str, image: PredictedImage, **more: Any) -> str:
        """Returns an image's results as JSON, in a tenth of the memory that they take."""
        return json.dumps([{**row, **more} for row in self._rows_of(image_id, image)])[1:-1]

    def close(self, failures: Sequence[str]) -> None:
        """Writes the results that are in one file, unless nothing could be looked at."""
        if self._format == "json" and (self._texts or not failures):
            text = ", ".join(filter(None, self._texts))
            write_text(self._out / f"{self._kind}.json", f"[{text}]")
        if self._format == "yolo":
            write_text(self._out / "data.yaml", yolo_config(self._class_names))


def _write(
    predictor: Predictor, images: _Images, paths: Sequence[pathlib.Path], output: _Output
) -> list[str]:
    """Writes what is found in images, and in the videos of `paths`; see `write_proposals`."""
    failures = output.add_images(predictor, images)
    first_id = len(images.sources) + 1
    for path, name in _named(paths):
        if is_video(path):
            count, problems = output.add_video(predictor, path, name, first_id)
            first_id += count
            failures += problems
    output.close(failures)
    return failures


def _arrays_of(image: PredictedImage) -> dict[str, np.ndarray]:
    found = {"boxes": image.boxes, "scores": image.scores}
    if image.labels is not None:
        found["labels"] = image.labels
    if image.masks is not None:
        found |= image.masks.to_arrays()
    return found


def _of_all(images: _Images, found: dict[int, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Returns what was found in all images of a split as `data.proposals` reads it."""
    in_order = [found[index] for index in range(len(found))]
    return {
        "image_ids": np.array(images.ids),
        "file_names": np.array(images.file_names),
        "pixels": np.array(images.pixels),
        "counts": np.array([len(each["scores"]) for each in in_order]),
        **{name: np.concatenate([each[name] for each in in_order]) for name in in_order[0]},
    }


def output_names(paths: Sequence[pathlib.Path]) -> list[str]:
    """Returns a unique file name for each path.

    The name is the path's stem. If several paths share it, folders are added, then the suffix. Of
    the folders that all paths have in common, only the innermost is among them.
    """
    try:
        common = pathlib.Path(os.path.commonpath([path.parent for path in paths])).parent
    except ValueError:  # no paths, or absolute ones beside relative ones
        common = pathlib.Path()

    def candidates(path: pathlib.Path) -> list[str]:
        below = path.relative_to(common) if path.is_relative_to(common) else path
        joined = "_".join(part for part in below.parts if part not in ("/", ".."))
        if len(joined.encode()) > _LONGEST_NAME:
            return [path.stem]
        return [path.stem, joined.removesuffix(path.suffix), joined]

    # A file system may ignore case.
    owners = collections.Counter(
        name for path in paths for name in {name.casefold() for name in candidates(path)}
    )
    return [
        next(
            (name for name in candidates(path) if owners[name.casefold()] == 1),
            f"{path.stem}_{number}",
        )
        for number, path in enumerate(paths, 1)
    ]
