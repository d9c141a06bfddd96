r"""Train and evaluate all runs of a sweep: a config over grids, settings, seeds or random values.

  rpn-jax sweep --sweep=shapes --out=runs/sweep --dry_run
  rpn-jax sweep --sweep=shapes --out=runs/sweep --jobs=2
  rpn-jax sweep --sweep=voc_lambda --out=/shared/lambda \
      --config.data.source=FOLDER --launcher=slurm --slurm_partition=gpu --slurm_gpus=1

A sweep file has get_sweep(), a few lines of Python; see rpn_jax/sweeps/definition.py. The dataset
is prepared once. Each run is an ordinary `train` and `evaluate` in a process of its own. Its folder
OUT/RUN is named by the settings that differ; OUT/logs/RUN.log has its output. --config.FIELD=VALUE
changes a field for all runs.

The same command, given again, does what is missing: after Ctrl-C (local runs save and stop; those
on Slurm go on), after a kill of the launcher or of runs, or when the sweep has more runs. A run
that fails does not stop the others; it is named with its reason, and --retry runs it again. `status
OUT` shows the state of all runs at any time.

There is no adaptive search: all runs are known before the first begins.
"""

import argparse
import json
from collections.abc import Sequence

from rpn_jax.files import check_out, user_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    parser.add_argument("--sweep", required=True, metavar="FILE", help="a file with get_sweep()")
    parser.add_argument(
        "--out", required=True, type=user_path, metavar="DIR", help="of the runs' folders"
    )
    parser.add_argument(
        "--launcher",
        choices=("local", "slurm"),
        default="local",
        help="processes of this machine, or jobs of Slurm, which needs DIR on a shared disk",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="runs at once: on this machine 1 by default, and cores and GPUs are shared out; on "
        "Slurm as many as it lets run",
    )
    parser.add_argument("--retry", action="store_true", help="run again what has failed")
    parser.add_argument("--dry_run", action="store_true", help="only list the runs")
    slurm = parser.add_argument_group("Slurm", "for each run, which is one task on one node")
    slurm.add_argument("--slurm_partition", metavar="NAME", help="the cluster's own by default")
    slurm.add_argument(
        "--slurm_time",
        type=int,
        default=240,
        metavar="MINUTES",
        help="then a run saves and is queued again; 240 by default",
    )
    slurm.add_argument("--slurm_gpus", type=int, metavar="N", help="of the run's node")
    slurm.add_argument("--slurm_cpus", type=int, metavar="N", help="of the run's task")
    slurm.add_argument(
        "--slurm_option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other of sbatch, such as account=lab; may be given several times",
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Launches, waits and prints how the runs stand."""
    check_out(arguments.out, folder=True)

    import jax

    from rpn_jax.errors import UserError, list_some
    from rpn_jax.sweeps.definition import load_sweep
    from rpn_jax.sweeps.launch import run_sweep
    from rpn_jax.sweeps.launchers import Launcher, LocalLauncher, SlurmLauncher
    from rpn_jax.sweeps.published import published_of_runs
    from rpn_jax.sweeps.runs import read_run_state
    from rpn_jax.sweeps.tables import print_table, sweep_table

    # The runs need the accelerators.
    jax.config.update("jax_platforms", "cpu")
    plan = load_sweep(arguments.sweep, overrides)
    out, published = arguments.out, published_of_runs(json.loads(plan.record_json()))
    if arguments.dry_run:
        states = {run.folder: read_run_state(out / run.folder) for run in plan.runs}
        print_table(sweep_table(states, published))
        if axis := plan.sweep.evaluations:
            names = list_some((name for name, _ in axis.settings), 20)
            print(f"each measured in {len(axis.settings)} ways: {names}")
        return
    if arguments.launcher == "local":
        launcher: Launcher = LocalLauncher(out, 1 if arguments.jobs is None else arguments.jobs)
    else:
        launcher = SlurmLauncher(
            out, arguments.jobs, minutes=arguments.slurm_time, options=_sbatch_options(arguments)
        )
    states = run_sweep(plan, out, launcher, retry=arguments.retry)
    print_table(sweep_table(states, published))
    bad = {name: state for name, state in states.items() if state.state != "done"}
    if bad:
        reasons = [f"{name} {state.state}: {state.reason}" for name, state in bad.items()]
        again = "again with --retry" if any(s.state == "failed" for s in bad.values()) else "again"
        raise UserError(
            f"{len(bad)} of {len(states)} runs are not done ({list_some(reasons, 3)}); "
            f"{out / 'logs'} has more; give the same command {again}"
        )


def _sbatch_options(arguments: argparse.Namespace) -> dict[str, str]:
    from rpn_jax.errors import UserError

    options = {
        "partition": arguments.slurm_partition,
        "gpus-per-node": arguments.slurm_gpus,
        "cpus-per-task": arguments.slurm_cpus,
    }
    for option in arguments.slurm_option:
        name, equals, value = option.removeprefix("--").partition("=")
        if not name or not equals:
            raise UserError(f"--slurm_option={option}: write NAME=VALUE, such as account=lab")
        options[name] = value
    return {name: value for name, value in options.items() if value is not None}
