"""What a trained network finds in image files, written to files."""

import collections
import json
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from ml_collections import ConfigDict

from rpn_jax.evaluation.coco import to_coco_detections, to_coco_results
from rpn_jax.files import write_npz, write_text
from rpn_jax.trained.load import check_detects, load_trained
from rpn_jax.training.predict import PredictedImage, Predictor
from rpn_jax.visualize.boxes import draw_proposals, write_image
from rpn_jax.visualize.detections import draw_detections


def write_proposals(
    config: ConfigDict,
    place: pathlib.Path,
    paths: Sequence[pathlib.Path],
    out: pathlib.Path,
    *,
    step: int | None = None,
    settings: str = "test",
    file_format: str = "json",
    draw: int = 20,
) -> list[str]:
    """Writes the proposals of image files, and pictures of the best `draw`, into the folder `out`.

    For `place` and `step` see `load_trained`, for `settings` `RPN.with_counts`. Returns a line for
    each file that could not be read; proposals of the others are written.
    """
    detector, variables, _ = load_trained(config, place, step)
    predictor = Predictor(config, detector.rpn().with_counts(settings), variables)

    def picture(image: PredictedImage) -> np.ndarray | None:
        if not draw:
            return None
        return draw_proposals(image.pixels, image.boxes, image.scores, top_n=draw)

    def rows(number: int, image: PredictedImage) -> list[dict]:
        return to_coco_results(number, image.boxes, image.scores)

    return _write(predictor, paths, out, "proposals", rows, picture, file_format)


def write_detections(
    config: ConfigDict,
    place: pathlib.Path,
    paths: Sequence[pathlib.Path],
    out: pathlib.Path,
    *,
    step: int | None = None,
    file_format: str = "json",
    draw_above: float = 0.5,
) -> list[str]:
    """Writes the detections in image files, and pictures of them, into the folder `out`.

    A picture has the detections of scores above `draw_above`. For `place` and `step` see
    `load_trained`. Returns a line for each file that could not be read; what was found in the
    others is written.

    Raises:
        UserError: the network has no classes.
    """
    check_detects(config, place)
    detector, variables, _ = load_trained(config, place, step)
    names = config.box.class_names
    category_ids = config.box.category_ids or range(1, len(names) + 1)

    def picture(image: PredictedImage) -> np.ndarray:
        shown = image.scores > draw_above
        found = image.boxes[shown], image.scores[shown], image.labels[shown]
        return draw_detections(image.pixels, *found, names)

    def rows(number: int, image: PredictedImage) -> list[dict]:
        found = to_coco_detections(number, image.boxes, image.scores, image.labels, category_ids)
        named = zip(found, image.labels, strict=True)
        return [{**row, "category": names[label]} for row, label in named]

    predictor = Predictor(config, detector, variables)
    return _write(predictor, paths, out, "detections", rows, picture, file_format)


def _write(
    predictor: Predictor,
    paths: Sequence[pathlib.Path],
    out: pathlib.Path,
    kind: str,
    rows_of: Callable[[int, PredictedImage], list[dict]],
    picture_of: Callable[[PredictedImage], np.ndarray | None],
    file_format: str,
) -> list[str]:
    """Writes what is found in image files; returns a line for each that could not be read."""
    names = output_names(paths)
    failures, rows = [], {}
    for image in predictor.predict(paths):
        name = names[image.index]
        if image.error:
            failures.append(image.error)
            continue
        if file_format == "npz":
            arrays = {"boxes": image.boxes, "scores": image.scores}
            if image.labels is not None:
                arrays["labels"] = image.labels
            write_npz(out / f"{name}.npz", **arrays)
        else:
            file_name = str(paths[image.index])
            rows[image.index] = [
                {**row, "file_name": file_name} for row in rows_of(image.index + 1, image)
            ]
        picture = picture_of(image)
        if picture is not None:
            write_image(out / "pictures" / f"{name}.jpg", picture)
    if file_format == "json":
        in_order = [row for index in sorted(rows) for row in rows[index]]
        write_text(out / f"{kind}.json", json.dumps(in_order))
    return failures


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
