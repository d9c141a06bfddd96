"""Say what differs between two runs, and at which step their losses part.

  rpn-jax compare runs/first runs/second
  rpn-jax compare runs/first runs/second --json

RUN_A and RUN_B are the --workdir of two trainings, which may be at work. Compared are their config,
code, packages, data, pretrained weights, machine and environment as of their last start, what
changed on the way, the training losses up to each step that both logged (of the run that logged
more often, the means of its rows), the figures of the last validation that both made, and the
parameters of the newest step that both have a checkpoint of.

The exit status is 0 whatever differs, and 1 if the runs cannot be compared: a script reads the list
`differs` of --json, which is empty for equal runs.
"""

import argparse
from collections.abc import Sequence

from rpn_jax.files import user_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    parser.add_argument("a", type=user_path, metavar="RUN_A")
    parser.add_argument("b", type=user_path, metavar="RUN_B")
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
    # The accelerators may be at work in one of the runs.
    jax.config.update("jax_platforms", "cpu")
    comparison = compare_runs(arguments.a, arguments.b)
    print(json.dumps(comparison, indent=2) if arguments.json else format_comparison(comparison))
