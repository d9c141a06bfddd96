"""Compare two runs: what differs, and the step at which their losses part.

  rpn-jax compare runs/first runs/second
  rpn-jax compare runs/first runs/second --json

RUN_A and RUN_B are the --workdir of two trainings, which may still be running. The command compares
config, code, packages, data, pretrained weights, machine and environment of their last starts, the
changes between starts, the training losses at the steps that both logged (means, where one run
logged more often), the figures of the last validation that both made, and the parameters at the
newest step for which both have a checkpoint.

The exit status is 0 whatever differs, and 1 if the runs cannot be compared. For scripts, the list
`differs` of --json is empty for equal runs.
"""

import argparse
from collections.abc import Sequence

from rpn_jax.files import user_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    parser.add_argument("a", type=user_path, metavar="RUN_A", help="folder of a run")
    parser.add_argument("b", type=user_path, metavar="RUN_B", help="folder of another")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Prints the comparison."""
    import json

    import jax

    from rpn_jax.errors import UserError
    from rpn_jax.sweeps.compare import compare_runs
    from rpn_jax.sweeps.compare_tables import format_comparison

    if overrides:
        raise UserError(f"{overrides[0]}: there is no such flag; see --help")
    # A running training may hold the accelerators.
    jax.config.update("jax_platforms", "cpu")
    comparison = compare_runs(arguments.a, arguments.b)
    print(json.dumps(comparison, indent=2) if arguments.json else format_comparison(comparison))
