"""Export image to proposals, or detections, as one function, for use without this package.

  rpn-jax export --workdir=runs/voc --out=proposals.jax --image_size=600x1000
  rpn-jax export --weights=FILE --out=FILE --image_size=800x1344 --platforms=cuda

The file holds the weights and a program for each of --platforms; this machine needs none of them.
jax and its optional package flatbuffers read it:

  import jax, numpy as np
  function = jax.export.deserialize(open("proposals.jax", "rb").read())
  images = np.zeros((1, 600, 1000, 3), np.uint8)  # RGB, at the top left of the canvas, then zeros
  found = function.call(images, np.float32([[600, 800]]))  # each image's height and width there
  boxes, scores = (found[name][0][found["valid"][0]] for name in ("boxes", "scores"))

Resize an image as `detect` does before it goes on the canvas: to config.data.shorter_side and
longer_side, by cv2.INTER_AREA where it shrinks, else by cv2.INTER_LINEAR. Of the canvases of
`detect`, one side is config.data.shorter_side, the other of four lengths, in equal steps up to
longer_side, and both are rounded up to a multiple of 32. On another canvas the image's borders look
other to the network, and it may find other boxes.

Boxes are x1, y1, x2, y2 in pixels of the canvas, best score first. A detector of classes gives
"labels" too, 1 for the first class, as FILE.classes.json names them, and 0 for an empty slot
(`detect --format=npz` and Model.detect, which have no empty slots, count from 0). One of masks
gives "masks" too, of each box the probability in each of its cells; rpn_jax.paste_masks, a function
of NumPy, pastes them into the image, of any size to which the boxes are scaled before:

  how = json.load(open("FILE.pasting.json"))  # as this network is used: pasting and threshold
  pasted = rpn_jax.paste_masks(masks, boxes, height, width, **how)  # (n, height, width) bool
"""

import argparse
from collections.abc import Sequence

from rpn_jax.files import user_path
from rpn_jax.flags import add_trained_flags, check_out_file, image_size, trained_place


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    add_trained_flags(parser)
    parser.add_argument(
        "--out", required=True, type=user_path, metavar="FILE", help="that is written"
    )
    parser.add_argument(
        "--image_size", required=True, metavar="HEIGHTxWIDTH", help="of the canvas, in pixels"
    )
    parser.add_argument("--batch_size", type=int, default=1, metavar="N", help="images at once")
    parser.add_argument(
        "--platforms",
        default="cpu,cuda,tpu",
        help="to compile for, comma-separated: cpu, cuda, rocm, tpu; all but rocm by default",
    )
    parser.add_argument(
        "--settings",
        choices=("train", "test"),
        default="test",
        help="how many proposals: config.rpn.proposals.test (for use) or .train",
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Writes the function and says what it is."""
    from rpn_jax.errors import UserError
    from rpn_jax.text import printable

    image_hw = image_size(arguments.image_size)
    if arguments.batch_size < 1:
        raise UserError(f"--batch_size={arguments.batch_size}: give at least 1")
    check_out_file(arguments.out, arguments.weights)
    from rpn_jax.trained.export import export_function

    config, place = trained_place(arguments, overrides)
    size = export_function(
        config,
        place,
        arguments.out,
        image_hw=image_hw,
        batch_size=arguments.batch_size,
        platforms=arguments.platforms.split(","),
        settings=arguments.settings,
        step=arguments.step,
    )
    canvas = " x ".join(map(str, (arguments.batch_size, *image_hw, 3)))
    out = printable(arguments.out)
    print(f"{out}: images {canvas}, for {arguments.platforms}, {size / 1e6:.1f} MB")
