"""Write a trained network's weights to one file, for this project or for torchvision.

  rpn-jax export-weights --workdir=runs/voc --out=model.safetensors
  rpn-jax export-weights --workdir=DIR --out=detector.safetensors --format=torchvision
  rpn-jax export-weights --workdir=runs/voc --out=model.safetensors --upload=hf://OWNER/REPO

--format=rpn_jax writes a model file, which holds the config too: `propose`, `detect`, `evaluate`
and `export` take it as --weights=FILE, `train` as config.model.pretrained. --format=torchvision
writes the names of torchvision's fasterrcnn_resnet50_fpn, or of fasterrcnn_resnet50_fpn_v2 where
the FPN has norms, and with masks those of maskrcnn_resnet50_fpn and its v2; a network that differs
is refused, with the fields that differ. num_classes counts the background; the file of an RPN lacks
the second stage, and wants strict=False:

  from safetensors.torch import load_file
  model = torchvision.models.detection.fasterrcnn_resnet50_fpn(
      weights=None, weights_backbone=None, num_classes=91)
  model.load_state_dict(load_file("detector.safetensors"))
"""

import argparse
from collections.abc import Sequence

from rpn_jax.files import user_path
from rpn_jax.flags import add_trained_flags, check_out_file, trained_place


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    add_trained_flags(parser)
    parser.add_argument(
        "--out",
        required=True,
        type=user_path,
        metavar="FILE",
        help="that is written, a .safetensors",
    )
    parser.add_argument(
        "--format",
        choices=("rpn_jax", "torchvision"),
        default="rpn_jax",
        help="whose names the arrays have (%(default)s)",
    )
    parser.add_argument(
        "--upload",
        metavar="NAME",
        help="puts the file into a repository on the Hugging Face Hub that is there already: "
        "hf://OWNER/REPO[@BRANCH][/FILE]",
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Writes the file and says what is in it, and its name on the Hub."""
    from rpn_jax import hub

    check_out_file(arguments.out, arguments.weights)
    name = hub.parse(arguments.upload) if arguments.upload else None
    if name:
        hub.load_client()
    from rpn_jax.trained.export import export_weights

    config, place = trained_place(arguments, overrides)
    print(
        export_weights(
            config, place, arguments.out, step=arguments.step, file_format=arguments.format
        )
    )
    if name:
        print(f"uploaded: {hub.upload(arguments.out, name)}")
