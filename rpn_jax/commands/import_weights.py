"""Write a model file from the weights of torchvision, timm, Keras, Caffe or detectron2.

  rpn-jax import-weights resnet50.pth --model=resnet50 --out=resnet50.safetensors
  rpn-jax import-weights model_final.pkl --model=detectron2/r50_fpn --out=rpn.safetensors
  rpn-jax propose --weights=rpn.safetensors photo.jpg --out=proposals

SOURCE is a .safetensors, .pth, .pkl, .h5 or .npz file; the names in it tell its project. Code in a
file is never run. --model is the name of a backbone, imported from a classifier for
config.model.pretrained, or of a whole network, imported with the config that makes it propose as in
its project:

  torchvision/fasterrcnn_resnet50_fpn   its state dict. The norms of torchvision's COCO_V1 weights
                                        have an epsilon of 0. The published file is recognised; for
                                        any other give --bn_eps: 0 if its training began with those
                                        weights, 1e-5 if not
  detectron2/r50_c4, detectron2/r50_fpn RPN and Faster R-CNN of the model zoo

Unused arrays, such as those of a classifier or of a second stage, are listed. A file that does not
fit is refused, and nothing is written.
"""

import argparse
from collections.abc import Sequence

from rpn_jax.files import user_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    parser.add_argument("source", type=user_path, metavar="SOURCE", help="the file to read")
    parser.add_argument(
        "--model", required=True, metavar="NAME", help="a backbone, such as resnet50, or as above"
    )
    parser.add_argument(
        "--out", required=True, type=user_path, metavar="FILE", help="ends in .safetensors"
    )
    parser.add_argument(
        "--bn_eps",
        type=float,
        metavar="EPSILON",
        help="of the source's batch normalisation; by default what its project uses",
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Writes the file and says what is in it, and what was not used."""
    from rpn_jax.trained.importing import import_weights

    print(
        import_weights(
            arguments.source, arguments.model, arguments.out, overrides, arguments.bn_eps
        )
    )
