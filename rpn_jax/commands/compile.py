r"""Compile a config's training step for TPUs or GPUs that this machine lacks; memory and speed.

  rpn-jax compile --config=voc07_vgg16 --topology=v5e:2x2 \
      --config.batch_size=4
  rpn-jax compile --config=voc07_vgg16 --topology=v5e:16x16 \
      --config.batch_size=256 --config.model.dtype=bfloat16 --json=step.json
  rpn-jax compile --config=coco_faster_rcnn_resnet50_fpn --topology=h100:1x8 \
      --config.batch_size=16 --config.model.dtype=bfloat16 --largest_batch

The step is that of `train`, for the described chips and the config's global batch. The command
needs the compiler (pip install 'rpn-jax[tpu]' or 'rpn-jax[cuda]'), but no accelerator, data or
weights; one compilation takes minutes. It prints the HBM that a chip needs and has, the FLOPs and
bytes of a step, the shortest step time that the chip's rates allow, the kernels by kind, and the
bytes that chips exchange beside those of the trainable parameters; gradients should be all that
they exchange. Kernels of GPUs are tuned on the card itself, which a compilation here cannot.
"""

import argparse
import os
from collections.abc import Sequence

from rpn_jax.files import check_out, user_path
from rpn_jax.flags import CONFIG_HELP


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    parser.add_argument("--config", required=True, metavar="FILE", help=CONFIG_HELP)
    parser.add_argument(
        "--topology",
        required=True,
        metavar="CHIP:GRID",
        help="a TPU (v4, v5e, v5p, v6e) and the shape of the slice: v5e:16x16, v4:2x2x1; or a GPU "
        "(a100, l4, h100, h200, b200), hosts and cards of each: h100:1, h100:1x8, h100:2x8",
    )
    parser.add_argument(
        "--largest_batch",
        action="store_true",
        help="also find the largest number of images a chip, by a few more compilations",
    )
    parser.add_argument(
        "--json", type=user_path, metavar="FILE", help="also write all figures there"
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Compiles and prints the tables."""
    if arguments.json is not None:
        check_out(arguments.json, flag="--json")
    # Set before the imports of JAX and the compiler. These would look for an accelerator, ask a
    # metadata server, and refuse a second process, because a TPU serves only one.
    os.environ.update(JAX_PLATFORMS="cpu", TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    # JAX's cache can store a program for other machines, but not load it.
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

    import json

    from rpn_jax.compiling.step_report import compile_report
    from rpn_jax.compiling.tables import format_report
    from rpn_jax.files import write_bytes
    from rpn_jax.runs.config_files import load_config

    report = compile_report(
        load_config(arguments.config, overrides),
        arguments.topology,
        largest_batch=arguments.largest_batch,
    )
    print(format_report(report))
    if arguments.json is not None:
        write_bytes(arguments.json, json.dumps(report, indent=2).encode())
