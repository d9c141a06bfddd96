"""The two sides of `benchmark.py`: processes that exchange lines of JSON with it over pipes.

`Sides` is the driver's end of the pipes, `serve` a side's end. Needs only the standard library,
because torchvision's side imports it too.
"""

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

from benchmark_cases import CPU, GPU, Case

SCRIPTS = pathlib.Path(__file__).resolve().parent

# A side's end.


class Timed(NamedTuple):
    """A prepared case: `call` runs it once and waits for the result.

    `work` has figures on which both sides must agree, `flops()` the FLOPs of a call, `setting` the
    side's fastest setting.
    """

    call: Callable[[], object]
    work: dict[str, int] = {}
    flops: Callable[[], float] | None = None
    setting: str = ""


def serve(facts: dict[str, Any], kinds: dict[str, Callable]) -> None:
    """Answers the driver over stdin and stdout until it closes them; the main loop of a side."""
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
                # After a pause: a virtual machine may have lent freed memory to others meanwhile.
                timed.call()
                answer = {"seconds": _time(timed.call, in_a_row), "idle_cpu_s": asked - answered}
                answer["cpu_s"] = time.process_time() - asked
            else:
                answer = kinds[request["kind"]](**request["options"])
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
        answered = time.process_time()
        print(json.dumps(answer), file=answers)


# Seconds of a timing at least; shorter calls are repeated within it.
LEAST_SECONDS = 0.05
# A longer call is warmed up once only. No further round of a case begins after LONG_CASE_SECONDS.
SLOW_CALL_SECONDS = 10
LONG_CASE_SECONDS = 60
# Torch's OpenMP threads spin for so long after their last work.
SETTLE_SECONDS = 0.02


def _prepare(kind: Callable, options: dict[str, Any]) -> tuple[dict, Timed, int]:
    start = time.perf_counter()
    timed = kind(**options)
    timed.call()
    ready = time.perf_counter() - start
    warm = [_time(timed.call, 1)]
    while warm[0] < SLOW_CALL_SECONDS and (
        len(warm) < 2 or (sum(warm) < 4 * LEAST_SECONDS and len(warm) < 1000)
    ):
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


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Pins this thread and those that it starts to one core, where the system supports it."""
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
    """Returns the peak memory, in MB, of preparing a case and calling it three times.

    On a CPU that is the memory of the process, libraries included; on a GPU, what the framework has
    allocated there.
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


# The driver's end.


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
# Torch is fastest when glibc keeps freed blocks; both sides have a heap in large pages.
THEIR_MEMORY = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**26),
}
# Both sides share a GPU; by default JAX allocates three quarters of it at once.
SHARE_GPU = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


class Sides:
    """The processes of both sides, or of our side alone without `torch_python`."""

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
            self._commands[THEIRS] = theirs, THEIR_MEMORY
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
            if time.perf_counter() - since > LONG_CASE_SECONDS:
                break
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
        cache = {
            "JAX_COMPILATION_CACHE_DIR": str(self._folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
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
