"""Describe a config's network (layers, receptive fields, cost, anchors), or list the fields.

  rpn-jax info --config=voc07_vgg16
  rpn-jax info --config=shapes --image_size=600x1000 --config.model.stem=small
  rpn-jax info --fields
  rpn-jax info --fields=rpn.targets

Needs no data and no weights, and runs no network; a detector's data must be prepared for their
classes, unless config.box.class_names has them. Prints, for one image, each stage's output shape,
stride, receptive field, parameters and FLOPs, the anchors of each level, and the number of weights
of the output layers beside the paper's (section 3.1.1).

--fields lists every field of a config, or of one group, with default, meaning, type and range.
"""

import argparse
from collections.abc import Sequence

from rpn_jax.flags import CONFIG_HELP, image_size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", metavar="FILE", help=CONFIG_HELP)
    what.add_argument(
        "--fields", nargs="?", const="", metavar="GROUP", help="list the fields, such as optimizer"
    )
    parser.add_argument(
        "--image_size",
        metavar="HEIGHTxWIDTH",
        help="of the image in pixels, 600x1000; by default config.data.shorter_side by 4/3 of it",
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Prints the tables."""
    if arguments.fields is not None:
        from rpn_jax.runs.reference import list_fields

        print(list_fields(arguments.fields))
        return
    from rpn_jax.runs.config_files import load_config
    from rpn_jax.trained.describe import describe

    image_hw = image_size(arguments.image_size) if arguments.image_size is not None else None
    print(describe(load_config(arguments.config, overrides), image_hw))
