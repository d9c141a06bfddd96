"""What a trained network finds in image files, or in a prepared split, written to files."""

import collections
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from rpn_jax.data.datasets import Dataset
from rpn_jax.data.images import decode_image
from rpn_jax.data.proposals import StoredProposals
from rpn_jax.errors import UserError
from rpn_jax.evaluation.coco import to_coco_detections, to_coco_results
from rpn_jax.files import write_npz, write_text
from rpn_jax.trained.load import check_detects, check_proposes, load_trained
from rpn_jax.training.build import open_split, with_proposals
from rpn_jax.training.predict import ImageSource, PredictedImage, Predictor
from rpn_jax.visualize.boxes import draw_proposals, write_image
from rpn_jax.visualize.detections import draw_detections


class _Images(NamedTuple):
    """Images to look at.

    Fields:
      sources: files, or pixels.
      ids: of the results, by image.
      file_names: of the results, by image.
      names: of what is written of each image; empty for a split, of which there is one file.
      proposals: those that a detector without an RPN looks at.
    """

    sources: Sequence[ImageSource]
    ids: Sequence[int | str]
    file_names: Sequence[str]
    names: Sequence[str] = ()
    proposals: StoredProposals | None = None


def write_proposals(
    config: ConfigDict,
    place: pathlib.Path,
    paths: Sequence[pathlib.Path],
    out: pathlib.Path,
    *,
    split: str | None = None,
    step: int | None = None,
    settings: str = "test",
    file_format: str = "json",
    draw: int = 20,
) -> list[str]:
    """Writes the proposals of image files, and pictures of the best `draw`, into the folder `out`.

    With `split`, they are those of a prepared split's images, with the ids of the dataset and
    without pictures, which a Fast R-CNN can be trained on. For `place` and `step` see
    `load_trained`, for `settings` `RPN.with_counts`. Returns a line for each file that could not be
    read; proposals of the others are written.

    Raises:
        UserError: the network has no RPN, or the split is not prepared.
    """
    check_proposes(config, place)
    images = _of_split(open_split(config, split)) if split else _of_files(paths)
    detector, variables, _ = load_trained(config, place, step)
    predictor = Predictor(config, detector.rpn().with_counts(settings), variables)

    def picture(image: PredictedImage) -> np.ndarray | None:
        if not draw:
            return None
        return draw_proposals(image.pixels, image.boxes, image.scores, top_n=draw)

    def rows(image_id: int | str, image: PredictedImage) -> list[dict]:
        return to_coco_results(image_id, image.boxes, image.scores)

    return _write(predictor, images, out, "proposals", rows, picture, file_format)


def write_detections(
    config: ConfigDict,
    place: pathlib.Path,
    paths: Sequence[pathlib.Path],
    out: pathlib.Path,
    *,
    split: str | None = None,
    step: int | None = None,
    file_format: str = "json",
    draw_above: float = 0.5,
) -> list[str]:
    """Writes the detections in image files, and pictures of them, into the folder `out`.

    A picture has the detections of scores above `draw_above`. For `split`, `place` and `step` see
    `write_proposals`. Returns a line for each file that could not be read; what was found in the
    others is written.

    Raises:
        UserError: the network has no classes, or no RPN and there is no `split` with proposals.
    """
    check_detects(config, place)
    if split:
        images = _of_split(with_proposals(config, open_split(config, split), "eval"))
    else:
        check_proposes(config, place)
        images = _of_files(paths)
    detector, variables, _ = load_trained(config, place, step)
    names = config.box.class_names
    category_ids = config.box.category_ids or range(1, len(names) + 1)

    def picture(image: PredictedImage) -> np.ndarray:
        shown = image.scores > draw_above
        found = image.boxes[shown], image.scores[shown], image.labels[shown]
        return draw_detections(image.pixels, *found, names)

    def rows(image_id: int | str, image: PredictedImage) -> list[dict]:
        found = to_coco_detections(image_id, image.boxes, image.scores, image.labels, category_ids)
        named = zip(found, image.labels, strict=True)
        return [{**row, "category": names[label]} for row, label in named]

    predictor = Predictor(config, detector, variables)
    return _write(predictor, images, out, "detections", rows, picture, file_format)


def _of_files(paths: Sequence[pathlib.Path]) -> _Images:
    return _Images(paths, range(1, len(paths) + 1), list(map(str, paths)), output_names(paths))


def _of_split(dataset: Dataset) -> _Images:
    listed = dataset.images()
    return _Images(
        _Pixels(dataset),
        [image.id for image in listed],
        [image.filename for image in listed],
        proposals=dataset.proposals,
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


def _write(
    predictor: Predictor,
    images: _Images,
    out: pathlib.Path,
    kind: str,
    rows_of: Callable[[int | str, PredictedImage], list[dict]],
    picture_of: Callable[[PredictedImage], np.ndarray | None],
    file_format: str,
) -> list[str]:
    """Writes what is found in images; returns a line for each file that could not be read."""
    failures, texts, arrays = [], {}, {}
    for image in predictor.predict(images.sources, proposals=images.proposals):
        if image.error and not images.names:
            raise UserError(image.error)
        if image.error:
            failures.append(image.error)
            continue
        if file_format == "npz":
            found = {"boxes": image.boxes, "scores": image.scores}
            if image.labels is not None:
                found["labels"] = image.labels
            arrays[image.index] = found
        else:
            file_name = images.file_names[image.index]
            rows = rows_of(images.ids[image.index], image)
            # Text takes a tenth of the memory.
            texts[image.index] = json.dumps([{**row, "file_name": file_name} for row in rows])[1:-1]
        if images.names:
            name = images.names[image.index]
            if file_format == "npz":
                write_npz(out / f"{name}.npz", **arrays.pop(image.index))
            picture = picture_of(image)
            if picture is not None:
                write_image(out / "pictures" / f"{name}.jpg", picture)
    if file_format == "json":
        in_order = (texts[index] for index in sorted(texts))
        write_text(out / f"{kind}.json", f"[{', '.join(filter(None, in_order))}]")
    elif not images.names:
        write_npz(out / f"{kind}.npz", **_of_all(images, arrays))
    return failures


def _of_all(images: _Images, found: dict[int, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Returns what was found in all images of a split as `data.proposals` reads it."""
    in_order = [found[index] for index in range(len(found))]
    return {
        "image_ids": np.array(images.ids),
        "file_names": np.array(images.file_names),
        "counts": np.array([len(each["scores"]) for each in in_order]),
        **{name: np.concatenate([each[name] for each in in_order]) for name in in_order[0]},
    }


def output_names(paths: Sequence[pathlib.Path]) -> list[str]:
    """Returns a unique file name for each path.

    The name is the path's stem. If several paths share it, folders are added, then the suffix.
    """

    def candidates(path: pathlib.Path) -> list[str]:
        joined = "_".join(path.parts).strip("/")
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
