"""Train an RPN, or a whole Faster R-CNN, on all devices of one machine or of many.

  rpn-jax train --config=shapes --workdir=runs/shapes
  rpn-jax train --config=bccd --workdir=runs/bccd --config.seed=1
  rpn-jax train --config=shapes_faster_rcnn --workdir=runs/detector
  rpn-jax train --from=runs/shapes@400 --workdir=runs/lower --config.optimizer.learning_rate=1e-4

Any field of the config can be changed with --config.FIELD=VALUE; `rpn-jax info --fields` lists
them. The dataset must be prepared (see `prepare`). A run that was cut off goes on from its last
checkpoint when it is started again with the same workdir, and ends with the same parameters as an
uninterrupted run. After SIGTERM, SIGUSR1 and Ctrl-C it finishes its step and saves; after the first
two it exits with status 75, so that a scheduler can start it again.
"""

import argparse
from collections.abc import Sequence

from rpn_jax.files import user_path
from rpn_jax.flags import CONFIG_HELP, add_process_flags, join


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    from rpn_jax.runs.reference import groups_help

    parser.epilog = groups_help()
    origin = parser.add_mutually_exclusive_group(required=True)
    origin.add_argument("--config", metavar="FILE", help=CONFIG_HELP)
    origin.add_argument(
        "--from",
        dest="origin",
        metavar="RUN@STEP",
        help="go on from a checkpoint of another run (RUN@best: of its best validation), with its "
        "config, in a folder of its own",
    )
    parser.add_argument(
        "--workdir",
        required=True,
        type=user_path,
        metavar="DIR",
        help="where the run keeps its config, checkpoints, metrics and pictures",
    )
    parser.add_argument(
        "--profile_steps",
        metavar="FIRST:LAST",
        help="trace these steps to WORKDIR/profile, for XProf or Perfetto",
    )
    add_process_flags(parser)


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Trains to the end."""
    from rpn_jax.runs.config_files import load_config
    from rpn_jax.runs.determinism import apply_determinism
    from rpn_jax.runs.profile import profile_steps
    from rpn_jax.training.fork import forked_config
    from rpn_jax.training.loop import train

    steps = profile_steps(arguments.profile_steps)
    if arguments.origin:
        config = forked_config(arguments.origin, overrides)
    else:
        config = load_config(arguments.config, overrides)
    apply_determinism(config)
    join(arguments)
    train(config, arguments.workdir, steps)
