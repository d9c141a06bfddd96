"""Show the images of a config's first training steps as the network will see them.

  rpn-jax preview --config=shapes
  rpn-jax preview --config=bccd --config.data.jitter.scales=(0.5,2.0) --images=24 --step=100
  rpn-jax preview --config=bccd "--config.data.augmentations=('color','crop')"

Nothing is trained. OUT/preview.html has, for each image of the steps: what is annotated in it after
the augmentations, resizing, mirroring and cropping, with masks where the dataset has them, and the
anchors that the objectness would be trained on (for a Fast R-CNN, the proposals that it is given).
Padding is grey. A table counts the objects that have no positive anchor, or that a crop removes. It
is a function of the config: a training from the same config and seed sees these images, and samples
these anchors.
"""

import argparse
import pathlib
from collections.abc import Sequence

from rpn_jax.files import user_path
from rpn_jax.flags import CONFIG_HELP


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    parser.add_argument("--config", required=True, metavar="FILE", help=CONFIG_HELP)
    parser.add_argument(
        "--images", type=int, default=12, metavar="N", help="how many (%(default)s)"
    )
    parser.add_argument(
        "--step",
        type=int,
        default=1,
        metavar="S",
        help="the first whose images are shown; 1 is the first of all",
    )
    parser.add_argument(
        "--out", type=user_path, metavar="DIR", help="runs/preview/CONFIG by default"
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Writes the page and prints its table."""
    import jax

    from rpn_jax.reports.preview import write_preview
    from rpn_jax.runs.config_files import load_config

    # A running training may hold the accelerators.
    jax.config.update("jax_platforms", "cpu")
    config = load_config(arguments.config, overrides)
    out = arguments.out or pathlib.Path("runs", "preview", pathlib.Path(arguments.config).stem)
    print(write_preview(config, out, images=arguments.images, step=arguments.step))
