"""Report on a run, several runs or a sweep: tables, curves and pictures on one page.

  rpn-jax report runs/shapes
  rpn-jax report runs/sweep --out=reports/sweep
  rpn-jax report runs/first runs/second --out=reports/both

DIR is the --workdir of a training, the --out of a sweep, or a folder of runs. The command writes
OUT/report.html, which holds its pictures, OUT/report.md with plots and pictures beside it, and
settings.csv, runs.csv and curves.csv. Runs that differ in the seed alone are one setting; settings
are compared with the sweep's base, or with the first run's. Runs must have been evaluated; those of
a sweep that were not are listed with the reason.
"""

import argparse
from collections.abc import Sequence

from rpn_jax.files import user_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    parser.add_argument(
        "folders", nargs="+", type=user_path, metavar="DIR", help="a run, a sweep, or several runs"
    )
    parser.add_argument(
        "--out", type=user_path, metavar="DIR", help="DIR/report by default, if there is one DIR"
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Writes the report and prints its first table."""
    import jax

    from rpn_jax.errors import UserError
    from rpn_jax.reports.report import write_report

    if overrides:
        raise UserError(f"{overrides[0]}: there is no such flag; see --help")
    # A running training may hold the accelerators.
    jax.config.update("jax_platforms", "cpu")
    print(write_report(arguments.folders, arguments.out))
