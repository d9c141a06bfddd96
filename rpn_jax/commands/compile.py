r"""Compile a config's training step for TPUs that are not here; memory, speed and traffic.

  rpn-jax compile --config=voc07_vgg16 --topology=v5e:2x2 \
      --config.batch_size=4
  rpn-jax compile --config=voc07_vgg16 --topology=v5e:16x16 \
      --config.batch_size=256 --config.model.dtype=bfloat16 --json=step.json

It is the very step that `train` runs, for the described chips and the config's global batch. Needs
no TPU, no data and no weights, but the compiler: pip install 'rpn_jax[tpu]'. One compilation takes
minutes. Prints the HBM that a chip needs and has, the FLOPs and bytes of a step, the best step time
that the chip's rates allow, and each exchange between the chips beside the bytes of the trainable
parameters, of which the gradients should be all that is exchanged.
"""

import argparse
import os
from collections.abc import Sequence

from rpn_jax.files import user_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    parser.add_argument("--config", required=True, metavar="FILE", help="a file with get_config()")
    parser.add_argument(
        "--topology",
        required=True,
        metavar="CHIP:GRID",
        help="v4, v5e, v5p or v6e, and how many stand side by side: v5e:16x16, v6e:2x2, v4:2x2x1",
    )
    parser.add_argument(
        "--largest_batch",
        action="store_true",
        help="also find the most images a chip that fit, by compiling a few times more",
    )
    parser.add_argument(
        "--json", type=user_path, metavar="FILE", help="also write all figures there"
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Compiles and prints the tables."""
    # Before JAX and the compiler are imported, which would look for a TPU, ask a metadata server,
    # and refuse to be there twice on a machine, as a TPU can be used but once.
    os.environ.update(JAX_PLATFORMS="cpu", TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    # A program for other machines can be written to JAX's cache but not be read from it.
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
