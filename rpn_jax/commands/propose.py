"""Propose boxes for any images with a trained network.

  rpn-jax propose --workdir=runs/shapes photo.jpg --out=proposals
  rpn-jax propose --workdir=runs/voc --folder=photos --out=proposals --format=npz
  rpn-jax propose --weights=model.safetensors photo.jpg --out=proposals

OUT/proposals.json is a list in COCO's results layout (bbox is x, y, width, height in pixels of the
original image) with the file's name in each entry. --format=npz writes OUT/NAME.npz instead, with
`boxes` (x1, y1, x2, y2) and `scores`. OUT/pictures has every image with its best boxes.
"""

import argparse
from collections.abc import Sequence

from rpn_jax.commands.flags import add_trained_flags, trained_place
from rpn_jax.files import user_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    parser.add_argument(
        "images", nargs="*", type=user_path, metavar="IMAGE", help="a file, or a folder"
    )
    add_trained_flags(parser)
    parser.add_argument(
        "--folder", type=user_path, metavar="DIR", help="all images in it and below"
    )
    parser.add_argument("--out", required=True, type=user_path, metavar="DIR")
    parser.add_argument("--format", choices=("json", "npz"), default="json")
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
    from rpn_jax.data.images import image_files
    from rpn_jax.errors import UserError
    from rpn_jax.trained.detect import write_proposals

    given = list(arguments.images)
    if arguments.folder:
        if not arguments.folder.is_dir():
            raise UserError(f"--folder={arguments.folder}: no such folder")
        given.append(arguments.folder)
    if not given:
        raise UserError("no images given; name image files or folders of them")
    if missing := [path for path in given if not path.exists()]:
        raise UserError(f"{missing[0]}: no such image file; leave it out or correct the path")
    listed = [image_files(path) if path.is_dir() else [path] for path in given]
    paths = list(dict.fromkeys(path for found in listed for path in found))
    config, place = trained_place(arguments, overrides)
    failures = write_proposals(
        config,
        place,
        paths,
        arguments.out,
        step=arguments.step,
        settings=arguments.settings,
        file_format=arguments.format,
        draw=arguments.draw,
    )
    if failures:
        raise UserError(f"{len(failures)} of {len(paths)} images: {'; '.join(failures)}")
