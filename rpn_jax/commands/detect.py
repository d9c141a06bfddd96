"""Detect objects of the trained classes in any images.

  rpn-jax detect --workdir=runs/voc photo.jpg --out=detections
  rpn-jax detect --weights=model.safetensors --folder=photos --out=detections --draw_above=0.7

OUT/detections.json is a list in COCO's results layout (category_id is the data's own id of the
class, bbox is x, y, width, height in pixels of the original image), with the names of the class and
of the file in each entry; --format=npz writes OUT/NAME.npz instead, with `boxes` (x1, y1, x2, y2),
`scores` and `labels` (0 is the first class; the function of `export` counts from 1). OUT/pictures
has every image with what was found.
--format=yolo writes OUT/labels/NAME.txt, a line `class cx cy w h score` for each box, in fractions
of the image's sides and without masks, and OUT/data.yaml with the classes: with the images in
OUT/images it is a dataset of kind `yolo`.
Masks are COCO's compressed runs of the original image: "segmentation" in the JSON; in an .npz the
bitmap is pycocotools.mask.decode({"size": mask_sizes[i], "counts": bytes(masks[i])}).
Of a video every frame is an image, with "frame" and "seconds" in each entry; OUT/videos has them.
With --split the results have the dataset's own ids; a Fast R-CNN takes config.data.proposals.eval.
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
        "--draw_above",
        type=float,
        default=0.5,
        metavar="SCORE",
        help="a picture has the detections of higher scores (%(default)s)",
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Writes detections and pictures."""
    from rpn_jax.errors import UserError

    if not 0 <= arguments.draw_above <= 1:
        raise UserError(f"--draw_above={arguments.draw_above}: give a score from 0 to 1")
    paths, others = given_images(arguments)
    from rpn_jax.trained.detect import write_detections

    config, place = trained_place(arguments, overrides)
    tell_left_out(others)
    failures = write_detections(
        config,
        place,
        paths,
        arguments.out,
        split=arguments.split,
        step=arguments.step,
        file_format=arguments.format,
        draw_above=arguments.draw_above,
    )
    tell_written(failures, paths, arguments.out)
