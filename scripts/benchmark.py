"""Times this project against torch and torchvision on one machine, in one run.

    python scripts/benchmark.py --list
    python scripts/benchmark.py --torch_python=PYTHON --json=FILE [--cases=REGEX] [--rounds=N]

PYTHON has torch and torchvision (2.13 and 0.28 were used); without it our side runs alone. Each
side is a process of its own, `benchmark_rpn_jax.py` and `benchmark_torchvision.py`, and they take
turns: a round is one timing of ours and one of theirs, while the other side waits for its pipe.
The tables give medians over the rounds with the quartiles beside them; a ratio above 1 is in our
favour. What comes before the first timing (building, compiling, warming up) is in none of them but
in a column of its own.

A side does the same work for the same input: pixels as bytes on the host to updated parameters, or
to boxes on the host. torchvision's training forward also makes proposals, for its detector; here it
makes none, as our training does not. FLOPs are what XLA counts in our step as a TPU would run it,
whatever runs it here: a convolution by Winograd's algorithm needs fewer, and can be above 100 % of
the rate that the best product of large matrices had, of either side, in the same precision and run.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

SCRIPTS = pathlib.Path(__file__).resolve().parent
CPU, GPU = "cpu", "gpu"
MATMUL_SIZE = {CPU: 4096, GPU: 16_384}
PRECISIONS = {CPU: ("float32", "bfloat16"), GPU: ("float32", "tf32", "bfloat16")}


class Case(NamedTuple):
    """What is timed: `kind` is a function of each side, `options` its arguments.

    A case that has no `peer` is timed on our side alone. An `alone` one is no repeated timing: each
    side runs it once, in a new process, and says what it measured.
    """

    name: str
    kind: str
    options: dict[str, Any]
    peer: bool = True
    alone: bool = False


class Field(NamedTuple):
    """The levels of anchors on an image."""

    hw: tuple[int, int]
    grids: tuple[tuple[int, int], ...]
    sizes: tuple[tuple[int, ...], ...]

    @property
    def strides(self) -> tuple[tuple[int, int], ...]:
        """As torchvision has them: of the image by the grid, rounded down."""
        height, width = self.hw
        return tuple((height // rows, width // columns) for rows, columns in self.grids)

    @property
    def num_anchors(self) -> int:
        """Of all levels, three aspect ratios for each size."""
        return sum(
            3 * rows * columns * len(sizes)
            for (rows, columns), sizes in zip(self.grids, self.sizes, strict=True)
        )


def one_level(height: int, width: int) -> Field:
    """The paper's nine anchors at stride 16."""
    return Field((height, width), ((-(-height // 16), -(-width // 16)),), ((128, 256, 512),))


def pyramid(height: int, width: int) -> Field:
    """Three anchors on each level of a feature pyramid."""
    grids = tuple((-(-height // s), -(-width // s)) for s in (4, 8, 16, 32, 64))
    return Field((height, width), grids, ((32,), (64,), (128,), (256,), (512,)))


LEVELS = {"one_level": one_level, "pyramid": pyramid}
# By the number of anchors: their levels, and the image.
FIELDS = {
    17_100: {"levels": "one_level", "hw": (600, 800)},
    120_015: {"levels": "pyramid", "hw": (600, 800)},
    268_569: {"levels": "pyramid", "hw": (800, 1344)},
}
# How many boxes a level hands over to the NMS, and how many leave it.
COUNTS = {
    "one_level": {"test": (6000, 1000), "train": (12_000, 2000)},
    "pyramid": {"test": (1000, 1000), "train": (2000, 2000)},
}


class Network(NamedTuple):
    """A network that both sides build: ours from a config and its overrides, theirs by its name."""

    config: str
    overrides: tuple[str, ...]
    hw: tuple[int, int] = (600, 800)
    batches: tuple[int, ...] = (1, 2)


_SGD = ("optimizer.name=sgd", "optimizer.learning_rate=1e-4", "proposals.test.post_nms_top_n=1000")
NETWORKS = {
    "vgg16": Network("configs/voc07_vgg16.py", (*_SGD, "model.objectness=sigmoid")),
    "resnet50_c4": Network(
        "configs/voc07_resnet50.py",
        (*_SGD, "model.objectness=sigmoid", "model.head_channels=1024"),
    ),
    "resnet50_fpn": Network(
        "configs/voc07_resnet50.py",
        (
            *_SGD,
            "model.objectness=sigmoid",
            "model.head_channels=256",
            "model.neck=fpn",
            "anchors.sizes=((32.0,),(64.0,),(128.0,),(256.0,),(512.0,))",
            "proposals.test.pre_nms_top_n=1000",
        ),
    ),
    "quickstart": Network("configs/shapes.py", _SGD, (128, 128), (16,)),
}
# The stages that stay as they are: conv1 and conv2 of the paper.
FROZEN = {"tuning": 2, "whole": 0}


def cases(platform: str) -> list[Case]:
    """Returns all cases for a CPU or a GPU; the matrix products come first."""
    return [
        *(
            Case(
                f"matmul/{p}",
                "matmul",
                {"precision": p, "size": 4096 if platform == CPU else 16384},
            )
            for p in PRECISIONS[platform]
        ),
        *part_cases(),
        *network_cases(platform),
        *cost_cases(platform),
        Case("input/600x800", "images", {"count": 64}),
        *(
            Case(f"start/{name}", "start", {"network": name}, peer=False, alone=True)
            for name in ("quickstart", "vgg16")
        ),
        Case("loop/quickstart", "loop", {"steps": 100}, peer=False, alone=True),
    ]


def part_cases() -> list[Case]:
    """What stands around the convolutions, each part by itself, of one image and of a batch."""
    found = []
    for anchors, field in FIELDS.items():
        for batch in (1, 8):
            common = field | {"batch": batch}
            end = f"{anchors}/batch{batch}"
            found.append(Case(f"anchors/{end}", "anchors", common))
            for n in (8, 64):
                options = common | {"objects": n}
                found.append(Case(f"match/{anchors}/{n}_objects/batch{batch}", "match", options))
            found.append(Case(f"loss/{end}", "loss", common | {"objects": 8}))
            for name, (pre, post) in COUNTS[field["levels"]].items():
                options = common | {"pre": pre, "post": post}
                found.append(Case(f"proposals/{name}/{end}", "proposals", options))
    for crowd in ("scattered", "crowded"):
        for n in (1000, 2000, 6000, 12_000):
            found.append(Case(f"nms/{crowd}/{n}", "nms", {"boxes": n, "crowd": crowd}))
    return found


def network_cases(platform: str) -> list[Case]:
    """Whole steps: an image to updated parameters, an image to 1000 proposals."""
    found = []
    for name, network in NETWORKS.items():
        for precision in PRECISIONS[platform]:
            for batch in network.batches + ((8,) if platform == GPU else ()):
                common = {"network": name, "hw": network.hw, "batch": batch, "precision": precision}
                end = f"{precision}/batch{batch}"
                for stages in FROZEN if name != "quickstart" else ("whole",):
                    options = common | {"frozen": FROZEN[stages], "objects": 8}
                    found.append(Case(f"train/{name}/{stages}/{end}", "train", options))
                if name != "quickstart":
                    found.append(Case(f"infer/{name}/{end}", "infer", common))
    return found


def cost_cases(platform: str) -> list[Case]:
    """What of a train step is no convolution, and the memory that the step takes."""
    found = []
    for name, network in NETWORKS.items():
        stages = "tuning" if name != "quickstart" else "whole"
        batch = network.batches[0]
        common = {
            "network": name,
            "hw": network.hw,
            "batch": batch,
            "precision": "float32",
            "frozen": FROZEN[stages],
            "objects": 8,
        }
        end = f"{name}/{stages}/float32/batch{batch}"
        for part in ("targets_and_loss", "optimizer"):
            options = common | {"part": part}
            found.append(Case(f"rest/{part}/{end}", "rest", options, peer=False))
        for precision in PRECISIONS[platform][:: len(PRECISIONS[platform]) - 1]:
            options = common | {"precision": precision}
            memory = f"memory/{name}/{stages}/{precision}/batch{batch}"
            found.append(Case(memory, "memory", options, alone=True))
    return found


# With --quick: one case of each kind and network, on these.
TINY = {"hw": (96, 128), "boxes": 100, "size": 64, "count": 4, "steps": 4, "batch": 2}


def quick(chosen: list[Case]) -> list[Case]:
    """Returns the cases that try everything out."""
    found = {}
    for case in chosen:
        options = {name: TINY.get(name, value) for name, value in case.options.items()}
        kind = case.kind, options.get("network"), options.get("levels"), options.get("part")
        found.setdefault(kind, case._replace(options=options))
    return list(found.values())


# Inputs, the same on both sides: NumPy alone, drawn from a seed.


def draw_objects(count: int, hw: tuple[int, int], batch: int) -> np.ndarray:
    """Returns boxes (batch, count, 4) of 24 to 360 pixels inside the image."""
    rng = np.random.default_rng(0)
    sides = np.exp(rng.uniform(np.log(24), np.log(0.6 * min(hw)), (batch, count, 2)))
    corners = rng.uniform(0, 1, (batch, count, 2)) * (np.array(hw)[::-1] - sides)
    return np.concatenate([corners, corners + sides], axis=2).astype(np.float32)


def draw_outputs(field: Field, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits (batch, A) and deltas (batch, A, 4) as of a head that knows nothing yet."""
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(batch, field.num_anchors))
    deltas = rng.normal(scale=0.2, size=(batch, field.num_anchors, 4))
    return logits.astype(np.float32), deltas.astype(np.float32)


def draw_candidates(count: int, crowd: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns boxes (count, 4) and scores for NMS.

    "scattered" ones lie all over an image of 600 x 800, few of them close together. "crowded" ones
    lie round 40 objects, as those of a trained network do, and most are suppressed.
    """
    rng = np.random.default_rng(2)
    if crowd == "scattered":
        boxes = draw_objects(count, (600, 800), 1)[0]
    else:
        objects = draw_objects(40, (600, 800), 1)[0]
        boxes = objects[rng.integers(0, len(objects), count)]
        sides = (boxes[:, 2:] - boxes[:, :2])[:, [0, 1, 0, 1]]
        boxes = boxes + (rng.normal(scale=0.12, size=boxes.shape) * sides)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 4)
    return boxes.astype(np.float32), rng.normal(size=count).astype(np.float32)


def draw_images(batch: int, hw: tuple[int, int]) -> np.ndarray:
    """Returns images (batch, height, width, 3) of noise."""
    return np.random.default_rng(3).integers(0, 256, (batch, *hw, 3), np.uint8)


def write_jpegs(folder: pathlib.Path, count: int) -> None:
    """Writes JPEGs of 375 x 500 pixels, smooth with a little noise, of about 60 kB each."""
    import cv2

    rng = np.random.default_rng(4)
    for index in range(count):
        image = cv2.resize(rng.uniform(0, 255, (24, 32, 3)), (500, 375))
        image = np.clip(image + rng.normal(scale=8, size=image.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{index:04d}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 90])


# What both sides do alike.


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """This thread, and those that it starts, on a single core, where the system can do that."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def measure_memory(
    make: Callable[[], "Timed"], peak_of_device: Callable[[], int | None]
) -> dict[str, float]:
    """Returns the most memory, in MB, that making a case and three calls of it take.

    On a CPU it is that of the process, of which the libraries alone have some; on a GPU what the
    framework has allocated there.
    """
    before = peak_of_process()
    timed = make()
    for _ in range(3):
        timed.call()
    of_device = peak_of_device()
    if of_device is not None:
        return {"peak on the device, MB": of_device / 1e6}
    peak = peak_of_process()
    return {"peak, MB": peak / 1e6, "of that above the imports, MB": (peak - before) / 1e6}


def peak_of_process() -> int:
    """Returns the largest resident size so far, in bytes."""
    with contextlib.suppress(OSError, TypeError):
        status = pathlib.Path("/proc/self/status").read_text()
        return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", status)[1])
    import resource  # counts what this process was started from as well

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# The two sides: processes that are asked over a pipe, a line of JSON each way.


class Timed(NamedTuple):
    """A case that a side has made ready: `call` does it once and waits for the result.

    `work` is what both sides must agree on; `flops()` are those of a call; `setting` is what the
    side found to be its best.
    """

    call: Callable[[], object]
    work: dict[str, int] = {}
    flops: Callable[[], float] | None = None
    setting: str = ""


def serve(facts: dict[str, Any], kinds: dict[str, Callable]) -> None:
    """Answers the driver on stdin and stdout until it closes them: the whole of a side's main."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print goes to the log
    print(json.dumps(facts), file=answers)
    timed, in_a_row, answered = None, 1, time.process_time()
    for line in sys.stdin:
        request, asked = json.loads(line), time.process_time()
        try:
            if request["do"] == "prepare":
                timed = None  # so that the last case is freed
                answer, timed, in_a_row = _prepare(kinds[request["kind"]], request["options"])
            elif request["do"] == "time":
                answer = {"seconds": _time(timed.call, in_a_row), "idle_cpu_s": asked - answered}
                answer["cpu_s"] = time.process_time() - asked
            else:
                answer = kinds[request["kind"]](**request["options"])
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
        answered = time.process_time()
        print(json.dumps(answer), file=answers)


# A timing is of at least so many seconds, of several calls in a row where one is shorter.
LEAST_SECONDS = 0.05
# OpenMP's threads, which are torch's, look out for work so long after they had some.
SETTLE_SECONDS = 0.02


def _prepare(kind: Callable, options: dict[str, Any]) -> tuple[dict, Timed, int]:
    start = time.perf_counter()
    timed = kind(**options)
    timed.call()
    ready = time.perf_counter() - start
    warm = []
    while len(warm) < 2 or (sum(warm) < 4 * LEAST_SECONDS and len(warm) < 1000):
        warm.append(_time(timed.call, 1))
    in_a_row = max(1, round(LEAST_SECONDS / statistics.median(warm)))
    answer = {
        "ready_s": ready,
        "work": timed.work,
        "flops": timed.flops and timed.flops(),
        "setting": timed.setting,
    }
    return answer, timed, in_a_row


def _time(call: Callable[[], object], in_a_row: int) -> float:
    start = time.perf_counter()
    for _ in range(in_a_row):
        call()
    return (time.perf_counter() - start) / in_a_row


class Side:
    """One side's process; `facts` are its versions and its device."""

    def __init__(self, command: list[str], environment: dict[str, str]):
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **environment},
            text=True,
        )
        self.facts = self._answer()

    def ask(self, **request) -> dict[str, Any]:
        """Returns the answer, which is `{"error": …}` if the case failed there."""
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            tail = "".join(self._log.readlines()[-20:])
            status = self._process.wait()
            sys.exit(f"{' '.join(self._process.args)}: ended with status {status}\n{tail}")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()


OURS, THEIRS = "rpn_jax", "torchvision"
# glibc then keeps large blocks that were freed, as our command line has it do; torch gains as well.
KEEP_FREED_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**26),
}
# They share a GPU; ours would take three quarters of it at once.
SHARE_GPU = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


class Sides:
    """The processes of both sides, or of ours alone where there is no `torch_python`."""

    def __init__(self, torch_python: str | None, torch_compile: bool | None, folder: pathlib.Path):
        self._folder = folder
        self._commands = {
            OURS: ([sys.executable, str(SCRIPTS / "benchmark_rpn_jax.py")], SHARE_GPU)
        }
        ours = Side(*self._commands[OURS])
        self.platform = CPU if ours.facts["platform"] == CPU else GPU
        self._started, self.facts = {OURS: ours}, {OURS: ours.facts}
        if torch_python:
            theirs = [torch_python, str(SCRIPTS / "benchmark_torchvision.py")]
            if torch_compile or (torch_compile is None and self.platform == GPU):
                theirs.append("--compile")
            self._commands[THEIRS] = theirs, KEEP_FREED_MEMORY
            self._started[THEIRS] = Side(*self._commands[THEIRS])
            self.facts[THEIRS] = self._started[THEIRS].facts

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for side in self._started.values():
            side.close()

    def time(self, case: Case, rounds: int) -> dict[str, dict[str, Any]]:
        """Returns what each side says of a case, the seconds of each round among it.

        Beside the sides, "busy" is the share of the machine that others used meanwhile.
        """
        sides = {name: s for name, s in self._started.items() if name == OURS or case.peer}
        result = {
            name: side.ask(do="prepare", kind=case.kind, options=case.options)
            for name, side in sides.items()
        }
        answers = {name: [] for name in sides if "error" not in result[name]}
        since, busy = time.perf_counter(), _machine_cpu_seconds()
        for _ in range(rounds):
            for name, of_rounds in answers.items():
                time.sleep(SETTLE_SECONDS)
                of_rounds.append(sides[name].ask(do="time"))
        seconds = time.perf_counter() - since
        busy = _machine_cpu_seconds() - busy
        for name, of_rounds in answers.items():
            result[name]["seconds"] = [answer["seconds"] for answer in of_rounds]
            idle = sum(answer["idle_cpu_s"] for answer in of_rounds[1:])
            result[name]["idle_share"] = idle / seconds / os.cpu_count()
            busy -= sum(answer["cpu_s"] + answer["idle_cpu_s"] for answer in of_rounds)
        return result | {"busy": max(busy, 0) / seconds / os.cpu_count()}

    def measure(self, case: Case) -> dict[str, dict[str, Any]]:
        """Returns what each side measured, in a process of its own for this case.

        What counts of our memory is the second run, which finds its programs compiled.
        """
        result = {}
        cache = {"JAX_COMPILATION_CACHE_DIR": str(self._folder / "compiled")}
        for name, (command, environment) in self._commands.items():
            if name == THEIRS and not case.peer:
                continue
            for _ in range(2 if name == OURS and case.kind == "memory" else 1):
                side = Side(command, environment | cache)
                result[name] = side.ask(do="run", kind=case.kind, options=case.options)
                side.close()
        return result


def _machine_cpu_seconds() -> float:
    """Returns what the machine has computed since it was started; 0 where only Linux knows."""
    try:
        fields = pathlib.Path("/proc/stat").read_text().split()[1:9]
    except OSError:
        return 0.0
    user, nice, system, _, _, *interrupts_and_stolen = map(int, fields)
    return (user + nice + system + sum(interrupts_and_stolen)) / os.sysconf("SC_CLK_TCK")


# The tables.

IN_PEACE = 0.03  # the share of the machine that others may use without a remark


def median(answer: dict[str, Any] | None) -> float | None:
    """Returns the median of a side's rounds, or None where it has none."""
    return statistics.median(answer["seconds"]) if answer and answer.get("seconds") else None


def timing_row(case: Case, result: dict[str, Any], matmul_rates: dict[str, float]) -> list[str]:
    """Returns a row of the table of timings."""
    row = [case.name]
    for name in (OURS, THEIRS):
        answer = result.get(name, {})
        if median(answer) is None:
            row += ["failed" if "error" in answer else "", "", ""]
            continue
        low, middle, high = (1000 * q for q in np.percentile(answer["seconds"], (25, 50, 75)))
        row += [f"{middle:,.4g}", f"{low:,.4g}-{high:,.4g}", f"{answer['ready_s']:.1f}"]
    ours, theirs = (median(result.get(name)) for name in (OURS, THEIRS))
    row.append(f"{theirs / ours:.2f}" if ours and theirs else "")
    flops = result[OURS].get("flops")
    rate = matmul_rates.get(case.options.get("precision"))
    row.append(f"{flops / ours / 1e9:,.0f}" if flops and ours else "")
    row.append(f"{100 * flops / ours / rate:.0f}" if flops and ours and rate else "")
    return row


TIMING_HEAD = [
    "milliseconds",
    *(cell for name in (OURS, THEIRS) for cell in (name, "quartiles", "ready s")),
    "ratio",
    "GFLOP/s",
    "% of matmul",
]


def tables(chosen: list[Case], results: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yields the tables, and lines about what should make the reader doubt them."""
    from rpn_jax.evaluation.coverage import format_table

    rates = {
        case.options["precision"]: max(
            results[case.name][OURS]["flops"] / seconds
            for name in (OURS, THEIRS)
            if (seconds := median(results[case.name].get(name)))
        )
        for case in chosen
        if case.kind == "matmul" and case.name in results
    }
    timed = [case for case in chosen if case.name in results and not case.alone]
    if timed:
        rows = [timing_row(case, results[case.name], rates) for case in timed]
        yield format_table([TIMING_HEAD, *rows])
    if figures := [row for case in chosen for row in figure_rows(case, results)]:
        yield format_table([["", OURS, THEIRS, "ratio"], *figures])
    yield from doubts(results)


def figure_rows(case: Case, results: dict[str, dict[str, Any]]) -> Iterator[list[str]]:
    """Yields the rows of what is not a time: memory, images a second, shares."""
    result = results.get(case.name, {})
    if case.alone:
        for figure, ours in result.get(OURS, {}).items():
            theirs = result.get(THEIRS, {}).get(figure)
            yield _figure_row(f"{case.name}: {figure}", ours, theirs)
    elif case.kind == "images" and result:
        ours, theirs = (
            result[name]["work"]["images"] / seconds
            if (seconds := median(result.get(name)))
            else None
            for name in (OURS, THEIRS)
        )
        yield _figure_row(f"{case.name}: images/s on one core", ours, theirs, more_is_better=True)
    elif case.kind == "rest" and result:
        step = results.get(case.name.replace(f"rest/{case.options['part']}", "train"), {})
        if (part := median(result[OURS])) and (whole := median(step.get(OURS))):
            yield _figure_row(f"{case.name}: % of the train step", 100 * part / whole, None)


def _figure_row(
    name: str, ours: float | str | None, theirs: float | None, more_is_better: bool = False
) -> list[str]:
    cells = [f"{x:,.4g}" if isinstance(x, float) else str(x or "") for x in (ours, theirs)]
    if not (isinstance(ours, float) and isinstance(theirs, float)):
        return [name, *cells, ""]
    return [name, *cells, f"{ours / theirs if more_is_better else theirs / ours:.2f}"]


def doubts(results: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yields lines about what failed, and where the sides did not do the same, or not in peace."""
    for name, result in results.items():
        answers = {side: result[side] for side in (OURS, THEIRS) if side in result}
        for side, answer in answers.items():
            if "error" in answer:
                yield f"{name}: {side} failed: {answer['error']}"
            if answer.get("idle_share", 0) > IN_PEACE:
                yield f"{name}: {side} computed while it was the other's turn"
        works = [answer["work"] for answer in answers.values() if "work" in answer]
        if any(work != works[0] for work in works):
            yield f"{name}: not the same work: {' and '.join(map(str, works))}"
    busy = {
        name: result["busy"] for name, result in results.items() if result.get("busy", 0) > IN_PEACE
    }
    if busy:
        most = max(busy, key=busy.get)
        yield (
            f"other processes kept the machine busy during {len(busy)} of {len(results)} cases: "
            f"{100 * busy[most]:.0f} % of it during {most}"
        )


def heading(facts: dict[str, dict[str, Any]]) -> str:
    """Returns what was compared, and on what."""
    ours = facts[OURS]
    lines = [
        f"{ours['processor']}, {ours['cores']} cores"
        + (f"; {ours['device']}" if ours["platform"] != CPU else ""),
        *(
            f"{name}: " + ", ".join(f"{k} {v}" for k, v in of_side.items() if k not in MACHINE)
            for name, of_side in facts.items()
        ),
    ]
    return "\n".join(lines)


MACHINE = ("processor", "cores", "platform", "device")


def main() -> None:
    """Runs the cases and prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torch_python", metavar="PYTHON", help="that has torch and torchvision")
    parser.add_argument(
        "--torch_compile",
        action=argparse.BooleanOptionalAction,
        help="their networks through torch.compile; by default on a GPU",
    )
    parser.add_argument("--cases", default="", metavar="REGEX", help="found in a case's name")
    parser.add_argument("--list", action="store_true", help="print the cases' names, do nothing")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="timings of each side")
    parser.add_argument("--images", type=pathlib.Path, metavar="DIR", help="of JPEGs, to load")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="all that was measured")
    parser.add_argument("--quick", action="store_true", help="tiny shapes: only to try it out")
    arguments = parser.parse_args()

    if arguments.list:
        names = [case.name for platform in (CPU, GPU) for case in cases(platform)]
        print("\n".join(n for n in dict.fromkeys(names) if re.search(arguments.cases, n)))
        return
    with tempfile.TemporaryDirectory() as name:
        run(arguments, pathlib.Path(name))


def run(arguments: argparse.Namespace, folder: pathlib.Path) -> None:
    """Runs the chosen cases; `folder` is for what they write."""
    results, rounds = {}, 2 if arguments.quick else arguments.rounds
    with Sides(arguments.torch_python, arguments.torch_compile, folder) as sides:
        chosen = choose(cases(sides.platform), arguments.cases)
        chosen = quick(chosen) if arguments.quick else chosen
        print(
            heading(sides.facts),
            *["tiny shapes: no figure means anything"] * arguments.quick,
            sep="\n",
        )
        for number, case in enumerate(chosen, 1):
            print(f"{number}/{len(chosen)} {case.name}", file=sys.stderr, flush=True)
            if case.kind == "images":
                case = with_images(case, arguments.images, folder)
            results[case.name] = sides.measure(case) if case.alone else sides.time(case, rounds)
            if arguments.json:
                report = {"facts": sides.facts, "rounds": rounds, "cases": results}
                arguments.json.write_text(json.dumps(report, indent=1))
    print("", *tables(chosen, results), sep="\n\n")


def choose(known: list[Case], pattern: str) -> list[Case]:
    """Returns the cases whose names have the pattern, and the matrix products beside them."""
    chosen = [case for case in known if re.search(pattern, case.name)]
    precisions = {c.options["precision"] for c in chosen if c.kind in ("train", "infer")}
    return [
        case
        for case in known
        if case in chosen or (case.kind == "matmul" and case.options["precision"] in precisions)
    ]


def with_images(case: Case, images: pathlib.Path | None, folder: pathlib.Path) -> Case:
    """Returns the case with the folder of JPEGs to load, written if there is none."""
    if images is None:
        images = folder / "images"
        images.mkdir()
        write_jpegs(images, case.options["count"])
    return case._replace(options={"folder": str(images)})


if __name__ == "__main__":
    main()
