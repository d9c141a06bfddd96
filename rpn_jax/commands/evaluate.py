"""Measure a trained network's recall on a split.

  python -m rpn_jax evaluate --workdir=runs/shapes
  python -m rpn_jax evaluate --workdir=runs/voc --split=test --config.data.data_dir=DIR

Writes recall.json, the recall-to-IoU plot and pictures to WORKDIR/evaluation/SPLIT and prints the
table: recall at IoU 0.5 to 0.95 of the best-scored proposals, average recall (AR), AR by object
size, and beside it the same AR from pycocotools. Difficult and crowd objects are not counted.
"""

import argparse
import pathlib
from collections.abc import Sequence


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    parser.add_argument(
        "--workdir", required=True, type=pathlib.Path, metavar="DIR", help="of the training run"
    )
    parser.add_argument("--split", help="of the dataset; the config's evaluation split by default")
    parser.add_argument("--step", type=int, help="of the checkpoint; the newest by default")


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Evaluates and prints the table."""
    from rpn_jax.training.config import apply_overrides
    from rpn_jax.training.trained import evaluate_workdir
    from rpn_jax.training.workdir import load_workdir_config

    config = apply_overrides(load_workdir_config(arguments.workdir), overrides)
    print(evaluate_workdir(config, arguments.workdir, arguments.split, arguments.step))
