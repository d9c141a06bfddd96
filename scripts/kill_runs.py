r"""Kills training runs at random moments and compares their results with an undisturbed run's.

    python scripts/kill_runs.py --runs=25 --out=DIR
    python scripts/kill_runs.py --runs=25 --processes=2 --out=DIR
    python scripts/kill_runs.py --runs=10 --config=shapes_faster_rcnn --out=DIR
    python scripts/kill_runs.py --runs=8 --command=alternate --out=DIR
    python scripts/kill_runs.py --config=voc_folder_faster_rcnn_vgg16 --command=alternate \
        --config.data.source=FOLDER --config.model.pretrained=vgg16.pth --out=DIR

One run is left alone. Each of the others is killed by SIGKILL one to three times, started again
after each kill, and must end with the same bits: every array of the state and every row of the
metrics. The exit status is 1 if one does not. --seed determines the moments: each kill has the next
phase of the list, a random occurrence of it, and a random moment in that. The table has the phase
in which the kill really fell, according to the run's files. The first start of each run compiles
anew, later starts use its compilation cache. Runs use CPUs unless JAX_PLATFORMS says otherwise.

With --command=alternate a run is the four steps of alternating training. Each is killed in every
step, and while proposals are made, in a random phase of it; all four states, the proposals and the
detector must be the same. These runs have the compiled programs of the undisturbed one.

Of two processes a random one is killed first, and the other up to a third of a second later, as
when a node fails and the scheduler ends the job. In that time the survivor can do all the harm that
it could do; a longer wait would only add the time until it gives up.
"""

import argparse
import collections
import contextlib
import itertools
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import jax
import numpy as np
import orbax.checkpoint as ocp
import safetensors.numpy

from rpn_jax.alternating import DETECTOR, TRAINED
from rpn_jax.alternating import STEPS as STEPS_OF_ALTERNATE
from rpn_jax.progress import progress_bar
from rpn_jax.runs.config_files import load_config
from rpn_jax.runs.metrics import read_metrics
from rpn_jax.training.checkpoint import damage

ROOT = pathlib.Path(__file__).resolve().parents[1]
STEPS, SAVE_EVERY, EVALUATE_EVERY = 24, 4, 8
OVERRIDES = {
    "data.options.image_size": 64,
    "data.options.num_train": 64,
    "data.options.num_test": 16,
    "data.shorter_side": 64,
    "data.longer_side": 64,
    "data.num_threads": 1,
    "model.output_stage": "c2",
    "rpn.channels": 16,
    "rpn.proposals.test.pre_nms_top_n": 100,
    "rpn.proposals.test.post_nms_top_n": 20,
    "evaluation.top_ns": (10, 20),
    "evaluation.pictures": 1,
    "evaluation.every": EVALUATE_EVERY,
    "checkpoint.every": SAVE_EVERY,
    "checkpoint.keep": 1,  # the hardest case: each checkpoint replaces the one before
    "ema_decay": 0.9,
    "optimizer.name": "adamw",
    "optimizer.warmup_steps": 4,
    "batch_size": 4,
    "steps": STEPS,
    "log_every": 1,
}
# Those of them that other data do not have, or whose network is to stay as it is.
OF_SHAPES = (
    "data.options.image_size",
    "data.options.num_train",
    "data.options.num_test",
    "model.output_stage",
)
# Further ones of a config whose detector has the stage.
STAGE_OVERRIDES = {
    "box": {
        "rpn.proposals.train.pre_nms_top_n": 100,
        "rpn.proposals.train.post_nms_top_n": 40,
        "box.channels": 16,
        "box.dropout": 0.5,
        "box.pooling.size": 3,
        "box.targets.batch_size_per_image": 16,
        "box.detections.top_n": 10,
        "box.detections.max_candidates": 60,
    },
    "mask": {
        "mask.cut_size": 28,
        "mask.channels": 16,
        "mask.convolutions": 1,
        "mask.pooling.size": 4,
    },
}
STARTING, COMPILING, STEPPING, EVALUATING, WRITING, ENDING = PHASES = (
    "starting",
    "compiling",
    "stepping",
    "evaluating",
    "writing a checkpoint",
    "ending",
)
PROPOSING = "proposing"
# The folders of the training runs, in the run's work folder, by its command.
FOLDERS = {"train": (".",), "alternate": tuple(step.folder for step in STEPS_OF_ALTERNATE)}
_LOOK_SECONDS = 0.004
_PATIENCE_SECONDS = 600  # for one start of a run


class Run:
    """One run of the command line, in a folder of its own."""

    def __init__(self, out: pathlib.Path, name: str, arguments: argparse.Namespace):
        self.workdir = out / name
        self.moments: list[tuple[str, int]] = []  # phase and last step at each kill
        self.starts = 0
        self._command = arguments.command
        self._flags = arguments.flags
        self._num_processes = arguments.processes
        self._logs = out / f"{name}.log"
        compiled = "undisturbed" if arguments.command == "alternate" else name
        self._environment = {
            "JAX_PLATFORMS": "cpu",
            **os.environ,
            "JAX_COMPILATION_CACHE_DIR": str(out / f"{compiled}.compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }

    @contextlib.contextmanager
    def started(self) -> Iterator[list[subprocess.Popen]]:
        """Starts the run's processes; kills the remaining ones at the end of the block."""
        self.starts += 1
        self._before = {folder: self._written(folder) for folder in FOLDERS[self._command]}
        command = [sys.executable, "-m", "rpn_jax", self._command, f"--workdir={self.workdir}"]
        flags = [[]]
        if self._num_processes > 1:
            job = [f"--coordinator={_free_address()}", f"--num_processes={self._num_processes}"]
            flags = [[*job, f"--process_id={i}"] for i in range(self._num_processes)]
        with self._logs.open("a") as log:
            log.write(f"--- start {self.starts}\n")
            log.flush()
            processes = [
                subprocess.Popen(
                    [*command, *self._flags, *more],
                    cwd=ROOT,
                    env=self._environment,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
                for more in flags
            ]
        try:
            yield processes
        finally:
            for process in processes:
                _kill(process)

    def finish(self, processes: list[subprocess.Popen]) -> None:
        """Waits until the processes end; exits if one fails or takes too long."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        try:
            status = [process.wait(deadline - time.monotonic()) for process in processes]
        except subprocess.TimeoutExpired:
            sys.exit(f"{self.workdir}: not finished after {_PATIENCE_SECONDS} s")
        if any(status):
            tail = "\n".join(self._logs.read_text().splitlines()[-20:])
            sys.exit(f"{self.workdir}: ended with status {status}; {self._logs} ends with\n{tail}")

    def phase(self) -> str:
        """Returns the phase of this start, or that of its kill, according to its files.

        Of `alternate` it begins with the step's folder.
        """
        folder = self._folder()
        if self._command == "train":
            return self._phase_of(folder)
        before = next((s.proposals_of for s in STEPS_OF_ALTERNATE if s.folder == folder), None)
        if before and not _proposals(self.workdir / before):
            return f"{before}: {PROPOSING}"
        return f"{folder}: {self._phase_of(folder)}"

    def _phase_of(self, folder: str) -> str:
        start_step, record_size = self._before[folder]
        if self._written(folder)[1] == record_size:
            return STARTING
        if any(path.suffix for path in (self.workdir / folder / "checkpoints").iterdir()):
            return WRITING
        step, is_validated = self.progress()
        if not is_validated:
            return EVALUATING
        if step == STEPS:
            return ENDING
        return COMPILING if step == start_step else STEPPING

    def progress(self) -> tuple[int, bool]:
        """Returns the last step, and whether no validation of it is missing."""
        rows = read_metrics(self.workdir / self._folder() / "metrics.jsonl")
        step = max((row["step"] for row in rows if "train/loss" in row), default=0)
        validated = max((row["step"] for row in rows if "validation/loss" in row), default=0)
        return step, bool(step % EVALUATE_EVERY) or validated == step

    def left(self, phase: str) -> float:
        """Returns the part of a phase's occurrences that is still to come."""
        folder = phase.partition(":")[0] if self._command == "alternate" else "."
        return 1 - max(_steps(self.workdir / folder), default=0) / STEPS

    def _folder(self) -> str:
        """Returns the folder of the training that is at work, or comes next."""
        *folders, last = FOLDERS[self._command]
        done = (folder for folder in folders if not (self.workdir / folder / TRAINED).exists())
        return next(done, last)

    def _written(self, folder: str) -> tuple[int, int]:
        """Returns the last checkpoint's step, and the size of `runs.jsonl`.

        Each start adds a line to it before it compiles.
        """
        file = self.workdir / folder / "runs.jsonl"
        size = file.stat().st_size if file.exists() else 0
        return max(_steps(self.workdir / folder), default=0), size


def _proposals(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(folder.glob("proposals/*/*.npz"))


def _flags(name: str, out: pathlib.Path, more: Sequence[str]) -> list[str]:
    """Returns the flags of a tiny run of a config, in which those of `more` come last."""
    config = load_config(name)
    overrides = {**OVERRIDES, "data.data_dir": out / "datasets"}
    if config.data.dataset != "shapes":
        overrides = {field: value for field, value in overrides.items() if field not in OF_SHAPES}
    for stage in STAGE_OVERRIDES.keys() & config.keys():
        overrides |= STAGE_OVERRIDES[stage]
    fields = (f"--config.{field}={value}" for field, value in overrides.items())
    return [f"--config={name}", *fields, *more]


def _steps(workdir: pathlib.Path) -> list[int]:
    return [int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdecimal()]


def _free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def _kill(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def undisturbed(run: Run) -> dict[str, tuple[int, float]]:
    """Runs to the end; returns the number of occurrences of each phase and their mean seconds.

    Phases are observed as in `killed`.
    """
    counts, seconds = collections.Counter(), collections.Counter()
    with run.started() as processes:
        before, since = None, time.monotonic()
        while any(process.poll() is None for process in processes):
            phase, now = run.phase(), time.monotonic()
            seconds[before] += now - since
            counts[phase] += phase != before
            before, since = phase, now
            time.sleep(_LOOK_SECONDS)
        run.finish(processes)
    return {phase: (counts[phase], seconds[phase] / counts[phase]) for phase in counts}


def killed(run: Run, phase: str, often: int, seconds: float, draw: random.Random) -> bool:
    """Starts the run and kills it in a phase; returns False if the run ended before.

    `often` and `seconds` are the phase's occurrences in a whole run, and their mean length.
    """
    occurrence = draw.randrange(max(1, round(often * run.left(phase))))
    # Mostly early in the phase: later starts have less to compile and to do.
    delay = seconds * draw.random() ** 2
    with run.started() as processes:
        before, deadline = None, time.monotonic() + _PATIENCE_SECONDS
        while True:
            if any(process.poll() is not None for process in processes):
                run.finish(processes)
                return False
            if time.monotonic() > deadline:
                run.finish(processes)
            current = run.phase()
            if current == phase != before:
                if occurrence == 0:
                    break
                occurrence -= 1
            before = current
            time.sleep(_LOOK_SECONDS)
        time.sleep(delay)
        for process in draw.sample(processes, len(processes)):
            _kill(process)
            time.sleep(draw.uniform(0, 0.3) if len(processes) > 1 else 0)
    run.moments.append((run.phase(), run.progress()[0]))
    return True


def kill_and_finish(run: Run, wanted: Sequence[str], phases: dict, draw: random.Random) -> None:
    """Kills a run in each of some phases, starts it again after each kill, and lets it end."""
    for phase in wanted:
        if not killed(run, phase, *phases[phase], draw):
            return
    with run.started() as processes:
        run.finish(processes)


def in_each_step(phases: dict, draw: random.Random) -> list[str]:
    """Returns a phase of each step of `alternate`, in their order; long ones are more likely."""
    steps: dict[str, list[str]] = {}
    for phase in phases:
        folder, _, name = phase.partition(": ")
        steps.setdefault(f"{folder} {name == PROPOSING}", []).append(phase)
    return [
        draw.choices(steps[step], [np.prod(phases[phase]) for phase in steps[step]])[0]
        for step in sorted(steps)
    ]


def result(workdir: pathlib.Path, command: str) -> dict[str, object]:
    """Returns a run's result: the bytes of all that it leaves, by name."""
    found = {}
    for folder in FOLDERS[command]:
        for name, value in result_of_training(workdir / folder).items():
            found[f"{folder} {name}"] = value
    if command == "alternate":
        for file in _proposals(workdir / "1_rpn") + _proposals(workdir / "3_rpn"):
            with np.load(file) as arrays:
                found |= {f"{file.relative_to(workdir)} {n}": arrays[n].tobytes() for n in arrays}
        detector = safetensors.numpy.load_file(workdir / DETECTOR)
        found |= {f"{DETECTOR} {name}": array.tobytes() for name, array in detector.items()}
    return found


def result_of_training(workdir: pathlib.Path) -> dict[str, object]:
    """Returns what a training leaves: the bytes of its last state and the rows of its metrics."""
    folder = workdir / "checkpoints" / str(STEPS)
    problem = damage(folder)
    if problem:
        sys.exit(f"{folder}: {problem}")
    metadata = ocp.StandardCheckpointer().metadata(folder / "default").item_metadata.tree
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata)
    state = ocp.PyTreeCheckpointer().restore(folder / "default", restore_args=as_numpy)
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    found = {
        jax.tree_util.keystr(path): (leaf.dtype, leaf.shape, leaf.tobytes())
        for path, leaf in leaves
    }
    rows = read_metrics(workdir / "metrics.jsonl")
    for row in rows:
        for name in ("images_per_second", "input_wait", "seconds", "peak_memory_bytes"):
            row.pop(f"train/{name}", None)
    return {**found, "metrics.jsonl": sorted(json.dumps(row, sort_keys=True) for row in rows)}


def main() -> None:
    """Does all runs and prints the table, a row after each run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=25)
    parser.add_argument("--processes", type=int, choices=(1, 2), default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--command", choices=tuple(FOLDERS), default="train")
    parser.add_argument("--config", help="shapes, or for alternate shapes_faster_rcnn, by default")
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="DIR", help="a new one")
    arguments, more = parser.parse_known_args()
    if unknown := [flag for flag in more if not flag.startswith("--config.")]:
        parser.error(f"{unknown[0]}: unknown; fields are given as --config.FIELD=VALUE")
    for field in ("steps", "evaluation.every", "checkpoint.every"):
        if any(flag.split("=")[0] == f"--config.{field}" for flag in more):
            parser.error(f"--config.{field}: is {OVERRIDES[field]} in these runs; leave it out")
    if arguments.command == "alternate" and arguments.processes > 1:
        parser.error("alternate has one process")
    defaults = {"train": "shapes", "alternate": "shapes_faster_rcnn"}
    arguments.config = arguments.config or defaults[arguments.command]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # and ends what it has started
    out = arguments.out.resolve()
    try:
        out.mkdir(parents=True)
    except FileExistsError:
        sys.exit(f"--out={out}: exists; give a new folder")
    arguments.flags = _flags(arguments.config, out, more)
    prepare = [sys.executable, "-m", "rpn_jax", "prepare", *arguments.flags]
    subprocess.run(prepare, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)

    draw = random.Random(arguments.seed)
    bar = progress_bar(total=arguments.runs + 1, description="runs", unit="run")
    reference = Run(out, "undisturbed", arguments)
    phases = undisturbed(reference)
    expected = result(reference.workdir, arguments.command)
    bar.update()
    # Phases come in turn, so that short ones are hit too.
    turns = itertools.cycle(draw.sample(sorted(phases), len(phases)))
    failed, counts = 0, collections.Counter()
    bar.write("run  starts  seconds  result     killed while")
    for number in range(arguments.runs):
        begun = time.monotonic()
        # A run that ended before its kill proves nothing; another takes its place.
        for attempt in itertools.count(1):
            name = f"run_{number:02d}" if attempt == 1 else f"run_{number:02d}_{attempt}"
            run = Run(out, name, arguments)
            wanted = list(itertools.islice(turns, draw.randint(1, 3)))
            if arguments.command == "alternate":
                wanted = in_each_step(phases, draw)
            kill_and_finish(run, wanted, phases, draw)
            if run.moments:
                break
        found = result(run.workdir, arguments.command)
        names = found.keys() | expected.keys()
        differing = sorted(name for name in names if found.get(name) != expected.get(name))
        failed += bool(differing)
        counts.update(phase for phase, _ in run.moments)
        moments = ", ".join(f"{phase} (step {step})" for phase, step in run.moments)
        bar.write(
            f"{number:3d} {run.starts:7d} {time.monotonic() - begun:8.0f}  "
            f"{f'DIFFERS: {differing[:3]}' if differing else 'same bits':9}  {moments}"
        )
        bar.update()
    bar.close()
    listed = PHASES if arguments.command == "train" else sorted(phases)
    print("kills:", ", ".join(f"{counts[phase]} {phase}" for phase in listed if counts[phase]))
    print(f"{arguments.runs - failed} of {arguments.runs} runs ended like the undisturbed one")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
