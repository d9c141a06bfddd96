"""Write a model file from the weights of torchvision, timm, Keras, Caffe or detectron2.

  rpn-jax import-weights resnet50.pth --model=resnet50 --out=resnet50.safetensors
  rpn-jax import-weights model_final.pkl --model=detectron2/r50_fpn --out=detector.safetensors
  rpn-jax detect --weights=detector.safetensors photo.jpg --out=detections

SOURCE is a .safetensors, .pth, .pkl, .h5 or .npz file; the names in it tell its project. Code in a
file is never run. --model is the name of a backbone, imported from a classifier for
config.model.pretrained, or of a whole network, imported with the config that makes it find what it
finds in its project; with all stages that the file has, unless --detector says otherwise:

  torchvision/fasterrcnn_resnet50_fpn   its state dict. The norms of torchvision's COCO_V1 weights
                                        have an epsilon of 0. The published file is recognised; for
                                        any other give --bn_eps: 0 if its training began with those
                                        weights, 1e-5 if not
  torchvision/fasterrcnn_resnet50_fpn_v2, maskrcnn_resnet50_fpn, maskrcnn_resnet50_fpn_v2
  detectron2/r50_c4, r50_dc5, r50_fpn   RPN, Faster and Mask R-CNN of the model zoo; and r101_c4 and
                                        so on
  py-faster-rcnn/vgg16, zf              an .npz of NAME_w and NAME_b in Caffe's order, or of kernels
                                        (height, width, in, out) and (in, out) behind (height,
                                        width, channels)

A file names no classes: 90 and 80 of them are taken for COCO's, 20 for VOC's; others are named by
--config.box.class_names="('cat', 'dog')". Unused arrays, such as those of a classifier, are listed.
A file that does not fit is refused, and nothing is written.
"""

import argparse
from collections.abc import Sequence

from rpn_jax.files import user_path
from rpn_jax.flags import check_out_file


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
    parser.add_argument(
        "--detector",
        choices=("rpn", "faster_rcnn", "mask_rcnn"),
        help="of a whole network: rpn takes the first stage alone, faster_rcnn two; by default all",
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Writes the file and says what is in it, and what was not used."""
    check_out_file(arguments.out, arguments.source)
    from rpn_jax.trained.importing import import_weights

    print(
        import_weights(
            arguments.source,
            arguments.model,
            arguments.out,
            overrides,
            arguments.bn_eps,
            arguments.detector,
        )
    )
