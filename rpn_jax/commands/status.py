"""Tell how a run or a sweep stands, at work or not.

  rpn-jax status runs/shapes
  rpn-jax status runs/sweep

Of a run: its state, step, losses, the figures of its last validation and of `evaluate`, images a
second and the time left. `running` means that a process holds its folder, here or on another node,
and how long ago the last row of its metrics was written tells whether it gets on; a run that was
killed is `stopped`. Of a sweep: the same in a row for each run, and why any of them failed.
"""

import argparse
from collections.abc import Sequence

from rpn_jax.files import user_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    parser.add_argument(
        "folder", type=user_path, metavar="DIR", help="--workdir of a run or --out of a sweep"
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Prints the table."""
    from rpn_jax.errors import UserError
    from rpn_jax.sweeps.runs import read_run_state, read_sweep_states
    from rpn_jax.sweeps.tables import count_states, print_table, run_table, sweep_table

    if overrides:
        raise UserError(f"{overrides[0]}: there is no such flag; see --help")
    folder = arguments.folder
    if (folder / "sweep.json").is_file():
        states = read_sweep_states(folder)
        print_table(sweep_table(states))
        print(count_states(list(states.values())))
    elif (folder / "config.json").is_file():
        print_table(run_table(str(folder), read_run_state(folder)))
    else:
        raise UserError(
            f"{folder}: holds neither a run nor a sweep; give --workdir of a training or --out of "
            "a sweep"
        )
