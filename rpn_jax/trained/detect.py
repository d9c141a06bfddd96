"""The proposals of a trained network for image files, written to files."""

import collections
import json
import pathlib
from collections.abc import Sequence

from ml_collections import ConfigDict

from rpn_jax.evaluation.coco import to_coco_results
from rpn_jax.files import write_npz, write_text
from rpn_jax.trained.load import load_trained
from rpn_jax.training.predict import Proposer
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
    each file that could not be read; proposals of the others are written.
    """
    detector, variables, _ = load_trained(config, place, step)
    proposer = Proposer(config, detector.with_counts(settings), variables)
    names = output_names(paths)
    failures, rows = [], {}
    for result in proposer.propose(paths):
        name = names[result.index]
        if result.error:
            failures.append(result.error)
            continue
        if file_format == "npz":
            write_npz(out / f"{name}.npz", boxes=result.boxes, scores=result.scores)
        else:
            rows[result.index] = [
                {**row, "file_name": str(paths[result.index])}
                for row in to_coco_results(result.index + 1, result.boxes, result.scores)
            ]
        if draw:
            picture = draw_proposals(result.pixels, result.boxes, result.scores, top_n=draw)
            write_image(out / "pictures" / f"{name}.jpg", picture)
    if file_format == "json":
        in_order = [row for index in sorted(rows) for row in rows[index]]
        write_text(out / "proposals.json", json.dumps(in_order))
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
