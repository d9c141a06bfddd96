"""Describe a config's network: layers, receptive fields, cost, anchors, size of its output.

  python -m rpn_jax info --config=configs/voc07_vgg16.py
  python -m rpn_jax info --config=configs/shapes.py --image_size=600x1000 --config.model.stem=small

Needs no data and no weights, and runs nothing. Prints, for one image, each stage's output shape,
stride, receptive field, parameters and FLOPs, the anchors of each level, and the number of weights
of the output layers beside those that the paper compares in section 3.1.1.
"""

import argparse
from collections.abc import Sequence

from rpn_jax.commands.flags import image_size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    parser.add_argument("--config", required=True, metavar="FILE", help="a file with get_config()")
    parser.add_argument(
        "--image_size",
        metavar="HEIGHTxWIDTH",
        help="of the image in pixels, 600x1000; by default config.data.shorter_side by 4/3 of it",
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Prints the tables."""
    from rpn_jax.runs.config_files import load_config
    from rpn_jax.trained.describe import describe

    image_hw = image_size(arguments.image_size) if arguments.image_size is not None else None
    print(describe(load_config(arguments.config, overrides), image_hw))
