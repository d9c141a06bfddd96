"""Train a Region Proposal Network on all local devices.

  python -m rpn_jax train --config=configs/shapes.py --workdir=runs/shapes
  python -m rpn_jax train --config=configs/bccd.py --workdir=runs/bccd --config.seed=1

Any field of the config can be changed with --config.FIELD=VALUE. The dataset must be prepared (see
`prepare`). A run that was cut off goes on from its last checkpoint when it is started again with
the same workdir, and ends with the same parameters as if it had not been.
"""

import argparse
import pathlib
from collections.abc import Sequence


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    parser.add_argument("--config", required=True, metavar="FILE", help="a file with get_config()")
    parser.add_argument(
        "--workdir",
        required=True,
        type=pathlib.Path,
        metavar="DIR",
        help="where the run keeps its config, checkpoints, metrics and pictures",
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Trains to the end."""
    from rpn_jax.training.config import load_config
    from rpn_jax.training.loop import train

    train(load_config(arguments.config, overrides), arguments.workdir)
