"""What a trained network finds in image files, written to files."""

import collections
import json
import pathlib
from collections.abc import Sequence

from ml_collections import ConfigDict

from rpn_jax.evaluation.coco import to_coco_results
from rpn_jax.files import write_npz, write_text
from rpn_jax.trained.load import load_trained
from rpn_jax.training.predict import propose_images
from rpn_jax.visualize.boxes import draw_proposals, write_image


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
    each file that could not be read; the others are written all the same.
    """
    detector, variables, _ = load_trained(config, place, step)
    names = output_names(paths)
    failures, rows = [], {}
    for result in propose_images(config, detector.with_counts(settings), variables, paths):
        name = names[result.path]
        if result.error:
            failures.append(result.error)
            continue
        if file_format == "npz":
            write_npz(out / f"{name}.npz", boxes=result.boxes, scores=result.scores)
        else:
            rows[result.path] = [
                {**row, "file_name": str(result.path)}
                for row in to_coco_results(
                    paths.index(result.path) + 1, result.boxes, result.scores
                )
            ]
        if draw:
            picture = draw_proposals(result.image, result.boxes, result.scores, top_n=draw)
            write_image(out / "pictures" / f"{name}.jpg", picture)
    if file_format == "json":
        in_order = [row for path in paths for row in rows.get(path, [])]
        write_text(out / "proposals.json", json.dumps(in_order))
    return failures


def output_names(paths: Sequence[pathlib.Path]) -> dict[pathlib.Path, str]:
    """Returns a file name for each path: its stem, or all of the path where stems are equal."""
    stems = collections.Counter(path.stem for path in paths)
    return {
        path: path.stem
        if stems[path.stem] == 1
        else "_".join(path.with_suffix("").parts).strip("/")
        for path in paths
    }
