"""Checks and measures this project on a machine with a GPU, in calls of ten minutes at most.

    scripts/gpu_check 1 --out=DIR [--wheels=DIR] [--torch_python=PYTHON]
    scripts/gpu_check 2 --out=DIR        and 3; any of them again goes on where it ended
    scripts/gpu_check 1 --quick          tiny shapes, on a CPU too: only to try it out

Each check is a process of its own with a time limit: one that crashes or hangs is recorded as
failed, with its message, and costs nothing but itself. DIR/results.jsonl has a line for each check
as soon as it ends, DIR/tables.md the tables of all of them, made anew by each call. A check that
the call's end interrupts is left for the next call; `--again` repeats the failed ones.

The machine needs no network: packages that it lacks are installed from a folder of wheels into
DIR/site. This file needs nothing but Python and NumPy.
"""

import argparse
import concurrent.futures
import contextlib
import importlib.util
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

import gpu_check_plan
from benchmark_cases import GPU
from gpu_check_plan import Check
from gpu_check_tables import markdown

ROOT = pathlib.Path(__file__).resolve().parents[1]
# No check begins with less time than this left.
LEAST_SECONDS = 20
# Checks of part 1 at a time on a GPU: they compile for longer than they compute.
JOBS = 4
_RUNNING: set[subprocess.Popen] = set()


class Results:
    """The records of the checks that have ended, by name, in a file of one line each."""

    def __init__(self, path: pathlib.Path):
        self._path, self._lock = path, threading.Lock()
        self.records: dict[str, dict[str, Any]] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                record = json.loads(line)
            except ValueError:  # a call was ended while it wrote
                continue
            self.records[record["name"]] = record

    def add(self, record: dict[str, Any]) -> None:
        """Appends a record; a later one of a name takes the place of an earlier one."""
        with self._lock, self._path.open("a") as file:
            self.records[record["name"]] = record
            file.write("\n" * (file.tell() > 0 and not _ends_a_line(self._path)))
            file.write(json.dumps(record) + "\n")

    def is_done(self, name: str, again: bool) -> bool:
        """Whether a check need not run; with `again` only one that went well need not."""
        record = self.records.get(name)
        return record is not None and (record["status"] == "ok" or not again)


def _ends_a_line(path: pathlib.Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def run_check(check: Check, limit: float, environment: dict[str, str]) -> dict[str, Any]:
    """Returns the record of a check that ran in a process of its own for `limit` seconds at most.

    Its status is "ok", "failed" or "stopped", at the limit.
    """
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        out, log = pathlib.Path(folder) / "figures.json", pathlib.Path(folder) / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*check.command, f"--json={out}"],
                cwd=ROOT,
                env={**os.environ, **environment, **check.environment},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            _RUNNING.add(process)
            try:
                status = process.wait(limit)
            except subprocess.TimeoutExpired:
                status = None
            finally:  # with what it started
                _end_session(process)
        lines = log.read_text(errors="replace").splitlines()
        figures = json.loads(out.read_text() or "{}") if out.exists() else {}
    message = figures.pop("error", None) or gpu_check_plan.error_of(figures)
    if status is None:
        state, message = "stopped", f"stopped after {limit:.0f} s: {_last(lines)}"
    elif status or message:
        state, message = "failed", message or f"ended with status {status}: {_last(lines)}"
    else:
        state = "ok"
    return {
        "name": check.name,
        "status": state,
        "message": message,
        "seconds": round(time.monotonic() - begun, 1),
        "figures": figures,
        "log": lines[-40:] if state != "ok" else [],
    }


def _end_session(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    _RUNNING.discard(process)


def _end_all(number: int, _frame) -> None:
    """Ends this process and the checks that run: none may stay behind on the GPU."""
    for process in list(_RUNNING):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    os._exit(128 + number)


def _last(lines: list[str]) -> str:
    """The last line that names an error, or else that says something."""
    said = [line.strip() for line in reversed(lines) if line.strip()]
    errors = (line for line in said if re.match(r"[\w.]*(Error|Exception|Exit)\b", line))
    return next(errors, said[0] if said else "no output")[:300]


def run_checks(
    checks: list[Check], results: Results, arguments, environment, deadline, jobs: int = 1
) -> bool:
    """Runs what is not done yet, `jobs` checks at a time; returns whether all of it is done."""

    def run(check: Check) -> bool:
        left = deadline - time.monotonic()
        if left < min(LEAST_SECONDS, check.limit_s):
            return False
        print(f"{check.name} …", file=sys.stderr, flush=True)
        record = run_check(check, min(left, check.limit_s), environment)
        if record["status"] == "stopped" and left < check.limit_s:
            return False  # for want of time: another call runs it
        results.add(record)
        print(
            f"    {check.name}: {record['status']} in {record['seconds']:.0f} s"
            + (f": {record['message']}" if record["message"] else ""),
            file=sys.stderr,
            flush=True,
        )
        return True

    missing = [check for check in checks if not results.is_done(check.name, arguments.again)]
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        return all(list(pool.map(run, missing)))


def install(wheels: pathlib.Path, site: pathlib.Path) -> None:
    """Installs a folder's wheels into `site`, once; nothing is asked of a network."""
    files = sorted(wheels.glob("*.whl"))
    if not files:
        sys.exit(f"--wheels={wheels}: has no .whl files")
    if site.exists():
        return
    with tempfile.TemporaryDirectory(dir=site.parent) as folder:
        made = pathlib.Path(folder) / "site"
        options = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir"]
        command = [sys.executable, "-m", "pip", "install", *options, "--target", made, *files]
        if subprocess.run(command, check=False).returncode:
            sys.exit(f"--wheels={wheels}: pip could not install them")
        made.rename(site)


def environment_of(arguments: argparse.Namespace) -> dict[str, str]:
    """Returns what the checks' processes need: where packages are, and programs compiled before."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    if arguments.wheels:
        site = arguments.out / "site"
        install(arguments.wheels, site)
        paths.insert(0, str(site))
    flags = os.environ.get("XLA_FLAGS", "")
    if arguments.quick:  # compile fast, compute slowly
        flags += " --xla_llvm_disable_expensive_passes=true --xla_backend_optimization_level=1"
    return {
        "XLA_FLAGS": flags.strip(),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "JAX_COMPILATION_CACHE_DIR": str(arguments.out / "compiled"),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # both sides and several processes share a GPU
    }


def with_torch() -> str | None:
    """This interpreter, if it has torch and torchvision."""
    return sys.executable if all(map(importlib.util.find_spec, ("torch", "torchvision"))) else None


def parse_arguments() -> argparse.Namespace:
    """Returns the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="gpu_check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", nargs="?", type=int, choices=(1, 2, 3))
    parser.add_argument("--part", dest="flag", type=int, choices=(1, 2, 3), help="the same")
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("runs/gpu_check"), metavar="DIR"
    )
    parser.add_argument("--wheels", type=pathlib.Path, metavar="DIR", help="packages to install")
    parser.add_argument(
        "--torch_python",
        default=with_torch(),
        metavar="PYTHON",
        help="that has torch and torchvision; this one, if it has them",
    )
    parser.add_argument("--seconds", type=float, default=570, help="of this call, at most")
    parser.add_argument("--again", action="store_true", help="repeat what failed")
    parser.add_argument("--quick", action="store_true", help="tiny shapes: only to try it out")
    parser.add_argument("--list", action="store_true", help="print the checks' names, do nothing")
    arguments = parser.parse_args()
    arguments.part = arguments.part or arguments.flag
    if arguments.part is None:
        parser.error("give a part: 1, 2 or 3")
    if arguments.quick:
        arguments.out = arguments.out / "quick"
    arguments.out = arguments.out.resolve()
    return arguments


def main() -> None:
    """Runs a part's checks and writes the tables."""
    deadline = time.monotonic()
    arguments = parse_arguments()
    deadline += arguments.seconds
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end_all)
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = Results(arguments.out / "results.jsonl")
    environment = environment_of(arguments)
    devices = gpu_check_plan.devices(arguments.quick)
    run_checks([devices], results, arguments, environment, deadline)
    record = results.records.get(devices.name, {"status": "failed", "message": "no time"})
    if record["status"] != "ok":
        sys.exit(f"{devices.name}: {record['message']}; repeat it with --again")
    checks = gpu_check_plan.checks(arguments, record["figures"]["platform"], results.records)
    if arguments.list:
        print("\n".join(check.name for check in checks))
        return
    is_shared = arguments.part == 1 and record["figures"]["platform"] == GPU
    jobs = JOBS if is_shared else 1
    is_complete = run_checks(checks, results, arguments, environment, deadline, jobs)
    tables = arguments.out / "tables.md"
    tables.write_text(markdown(results.records, is_quick=arguments.quick))
    left = sum(not results.is_done(check.name, False) for check in checks)
    print(
        f"{tables}: {len(results.records)} checks"
        + (f"; {left} left for another call" * (not is_complete))
    )


if __name__ == "__main__":
    main()
