"""Measure a trained network's recall on a split, and its precision if it is a detector.

  rpn-jax evaluate --workdir=runs/shapes
  rpn-jax evaluate --workdir=runs/voc --split=test --config.data.data_dir=DIR
  rpn-jax evaluate --workdir=runs/voc --without=nms
  rpn-jax evaluate --weights=model.safetensors --out=DIR --config.data.dataset=voc/2007

Writes figures.json, objects.npz (the proposal that found each object), the recall-to-IoU plot and
pictures. Prints a table of the best-scored proposals: recall at IoU 0.5 to 0.95, average recall
(AR), AR by object size, and the same AR from pycocotools. Difficult and crowd objects do not count.

Of a detector also: COCO's twelve figures of average precision and recall, VOC's average precision
of 2007 and since 2010, both by class, the points of AP50 that each kind of error costs, the plot of
precision to recall, and detections.npz (what each detection counts as, for `report`). Of one with
masks the same of masks, by the IoU of masks: masks_AP and so on in figures.json; they are left out
where the split has none.
"""

import argparse
from collections.abc import Sequence

from rpn_jax.files import check_out, user_path
from rpn_jax.flags import add_process_flags, add_trained_flags, join, trained_place
from rpn_jax.runs.fields import LEFT_OUT


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    add_trained_flags(parser)
    parser.add_argument("--split", help="of the dataset; the config's evaluation split by default")
    parser.add_argument(
        "--out",
        type=user_path,
        metavar="DIR",
        help="WORKDIR/evaluation/SPLIT[-without-PART] by default; --weights needs it",
    )
    parser.add_argument(
        "--without",
        action="append",
        choices=LEFT_OUT,
        default=[],
        help="a part of the network to leave out, as in the paper's Table 2 (repeatable): nms; "
        "ranking (random anchors instead); regression (the anchors themselves instead)",
    )
    add_process_flags(parser)


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Evaluates and prints the table."""
    from rpn_jax.errors import UserError
    from rpn_jax.runs.processes import is_first, on_first
    from rpn_jax.trained.measure import evaluate_trained

    if arguments.weights is not None and arguments.out is None:
        raise UserError("--out: is not given; with --weights, name a folder for the results")
    config, place = trained_place(arguments, overrides)
    join(arguments)
    # The first process writes for all; the folder need not be there for the others.
    on_first(lambda: check_out(arguments.out or place / "evaluation", folder=True))
    table = evaluate_trained(
        config, place, arguments.split, arguments.step, arguments.out, arguments.without
    )
    if is_first():
        print(table)
