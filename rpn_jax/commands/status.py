"""Show the state of a run, a sweep or an alternating training, running or not.

  rpn-jax status runs/shapes
  rpn-jax status runs/sweep
  rpn-jax status runs/four

For a run: state, step, losses, the figures of its last validation and of `evaluate`, images a
second and the time left. A `running` run has a process that holds its folder, here or on another
node; the age of the last row of its metrics tells whether it makes progress. A killed run is
`stopped`. For a sweep, and the four steps of `alternate`: one such row for each run, and the reason
of each failure.
"""

import argparse
from collections.abc import Sequence

from rpn_jax.files import user_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    parser.add_argument(
        "folder", type=user_path, metavar="DIR", help="--workdir of a training or --out of a sweep"
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Prints the table."""
    from rpn_jax.errors import UserError
    from rpn_jax.sweeps.published import published_of_runs
    from rpn_jax.sweeps.runs import read_run_state, read_sweep, read_sweep_states
    from rpn_jax.sweeps.tables import count_states, print_table, run_table, sweep_table

    if overrides:
        raise UserError(f"{overrides[0]}: there is no such flag; see --help")
    folder = arguments.folder
    if (folder / "sweep.json").is_file():
        states = read_sweep_states(folder)
        print_table(sweep_table(states, published_of_runs(read_sweep(folder) or {})))
        print(count_states(list(states.values())))
    elif (folder / "config.json").is_file():
        print_table(run_table(str(folder), read_run_state(folder)))
    elif (folder / "1_rpn" / "config.json").is_file():
        from rpn_jax.alternating import STEPS

        states = {step.folder: read_run_state(folder / step.folder) for step in STEPS}
        print_table(sweep_table(states))
        print(count_states(list(states.values())))
    else:
        raise UserError(
            f"{folder}: holds neither a run nor a sweep; give --workdir of a training or --out of "
            "a sweep"
        )
