"""Propose boxes for any images with a trained network.

  rpn-jax propose --workdir=runs/shapes photo.jpg --out=proposals
  rpn-jax propose --workdir=runs/voc --folder=photos --out=proposals --format=npz
  rpn-jax propose --weights=model.safetensors photo.jpg --out=proposals
  rpn-jax propose --workdir=runs/voc --split=train --settings=train --out=train --format=npz

OUT/proposals.json is a list in COCO's results layout (bbox is x, y, width, height in pixels of the
original image) with the file's name in each entry. --format=npz writes OUT/NAME.npz instead, with
`boxes` (x1, y1, x2, y2) and `scores`. OUT/pictures has every image with its best boxes.

Of a video every frame is an image, with "frame" and "seconds" in each entry; OUT/videos has them
with their best boxes. --format=yolo is as in `detect`, of one class. With --split the results have
the dataset's own ids, and --format=npz writes one file; a Fast R-CNN can be trained on either of
json and npz (config.data.proposals).
"""

import argparse
from collections.abc import Sequence

from rpn_jax.flags import (
    add_image_flags,
    add_trained_flags,
    given_images,
    tell_left_out,
    tell_written,
    trained_place,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    add_image_flags(parser)
    add_trained_flags(parser)
    parser.add_argument(
        "--settings",
        choices=("train", "test"),
        default="test",
        help="how many: config.rpn.proposals.test (for use) or .train (to train a detector on)",
    )
    parser.add_argument(
        "--draw", type=int, default=20, metavar="N", help="boxes in a picture; 0: no pictures"
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Writes proposals and pictures."""
    from rpn_jax.errors import UserError

    if arguments.draw < 0:
        raise UserError(f"--draw={arguments.draw}: give a number of boxes, 0 for no pictures")
    paths, others = given_images(arguments)
    from rpn_jax.trained.detect import write_proposals

    config, place = trained_place(arguments, overrides)
    tell_left_out(others)
    failures = write_proposals(
        config,
        place,
        paths,
        arguments.out,
        split=arguments.split,
        step=arguments.step,
        settings=arguments.settings,
        file_format=arguments.format,
        draw=arguments.draw,
    )
    tell_written(failures, paths, arguments.out)
