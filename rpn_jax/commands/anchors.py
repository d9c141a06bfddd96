"""Show how well a config's anchors cover the objects of a split, and which sizes would do better.

  rpn-jax anchors --config=shapes
  rpn-jax anchors --config=bccd --config.data.source=FOLDER --split=test
  rpn-jax anchors --config=bccd --config.data.source=FOLDER --split=test --write=windows.npz

No network is run. Prints the number of anchors, the objects' best IoU with the anchors of training,
by size and aspect ratio, the positive anchors of an image, and the sizes that clustering by IoU
finds. OUT/anchors.png shows the anchors of one position on an image of the split, OUT/coverage.png
the widths and heights of objects and anchors.

--write=FILE.npz writes all anchors of each image as proposals instead: dense sliding windows, on
which a Fast R-CNN (config.data.proposals) is a detector of one stage.
"""

import argparse
import pathlib
from collections.abc import Sequence

from rpn_jax.files import user_path
from rpn_jax.flags import CONFIG_HELP


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    parser.add_argument("--config", required=True, metavar="FILE", help=CONFIG_HELP)
    parser.add_argument("--split", help="of the dataset; the config's training split by default")
    parser.add_argument(
        "--out", type=user_path, metavar="DIR", help="runs/anchors/CONFIG by default"
    )
    parser.add_argument(
        "--write", type=user_path, metavar="FILE", help="write the windows of the split instead"
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Writes the pictures and prints the tables."""
    from rpn_jax.runs.config_files import load_config
    from rpn_jax.trained.coverage import report_anchors
    from rpn_jax.trained.windows import write_windows

    config = load_config(arguments.config, overrides)
    if arguments.write:
        print(write_windows(config, arguments.write, arguments.split))
        return
    out = arguments.out or pathlib.Path("runs", "anchors", pathlib.Path(arguments.config).stem)
    print(report_anchors(config, out, arguments.split))
