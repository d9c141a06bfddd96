"""The checks of `gpu_check.py`: names, commands and time limits, the most telling ones first."""

import argparse
import json
import statistics
import sys
from typing import Any, NamedTuple

import benchmark_cases
from benchmark_cases import CPU, DETECTORS, NETWORKS, PRECISIONS

MODELS = ("rpn", "faster_rcnn", "mask_rcnn")
# Of part 2, for one image and for many; the larger batch first.
BATCHES = (8, 1, 2)
TESTS = (
    "tests/parity",
    "tests/ops",
    "tests/models",
    "tests/detectors",
    "tests/training/test_step.py",
)
QUICK_TESTS = ("tests/parity/test_boxes.py",)
WHOLE_CONFIGS = ("voc07_vgg16", "coco_faster_rcnn_resnet50_fpn", "coco_mask_rcnn_resnet50_fpn")
# The three models whose steps are timed first.
TIMED = ("faster_rcnn_resnet50_fpn", "mask_rcnn_resnet50_fpn", "vgg16")


class Check(NamedTuple):
    """A process of its own; it writes its figures to the file after `--json=`."""

    name: str
    command: tuple[str, ...]
    limit_s: float
    environment: dict[str, str] = {}


def _case(name: str, kind: str, limit_s: float, environment=None, **options) -> Check:
    """One function of gpu_check_cases.py."""
    command = sys.executable, "scripts/gpu_check_cases.py", kind, json.dumps(options)
    return Check(name, command, limit_s, environment or {})


def devices(quick: bool) -> Check:
    """The first check of all: that JAX sees the GPU."""
    return _case("devices", "devices", 120, quick=quick)


def checks(
    arguments: argparse.Namespace, platform: str, records: dict[str, dict[str, Any]]
) -> list[Check]:
    """Returns the checks of a part on a CPU or a GPU; `records` are those that have ended."""
    parts = {1: sanity, 2: benchmarks, 3: details}
    found = parts[arguments.part](arguments, platform, records)
    # A machine without a GPU may be slow, and nothing is measured there.
    return [c._replace(limit_s=4 * c.limit_s) for c in found] if arguments.quick else found


def sanity(arguments: argparse.Namespace, platform: str, records) -> list[Check]:
    """Part 1: is what the GPU computes right? Its checks may run side by side."""
    quick = arguments.quick
    found = [_case(f"step/{m}", "step", 120, model=m, quick=quick) for m in MODELS]
    # A program that was compiled before says nothing about the compiler.
    anew = {} if quick else {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    for kind, environment in (("repeat", anew), ("gradients", {}), ("losses", {})):
        found += [
            _case(f"{kind}/{m}", kind, 150, environment, model=m, quick=quick)
            for m in (MODELS[-1:] if quick else MODELS)  # the last one has all stages
        ]
    exact = {"JAX_DEFAULT_MATMUL_PRECISION": "float32"}
    if platform != CPU:
        exact["JAX_PLATFORMS"] = "cuda,cpu"
    workers = 1 if quick else 4
    found += [
        _case(
            f"tests/{path.removeprefix('tests/')}", "tests", 200, exact, path=path, workers=workers
        )
        for path in (QUICK_TESTS if quick else TESTS)
    ]
    if not quick:
        found += [_case(f"whole/{name}", "whole", 200, config=name) for name in WHOLE_CONFIGS]
    return found


def _benchmark(arguments, name: str, pattern: str, limit_s: float) -> Check:
    """Cases of benchmark.py."""
    command = [sys.executable, "scripts/benchmark.py", f"--cases={pattern}"]
    if arguments.torch_python:
        command.append(f"--torch_python={arguments.torch_python}")
    command.append("--quick" if arguments.quick else "--rounds=5")
    return Check(name, tuple(command), limit_s)


def benchmarks(arguments: argparse.Namespace, platform: str, records) -> list[Check]:
    """Part 2: how long do steps and inference take, beside torch's AMP and torch.compile?"""
    known = {case.name for case in benchmark_cases.cases(platform)}
    others = tuple(name for name in (*NETWORKS, *DETECTORS) if name not in TIMED)
    # bfloat16 first: what one would train in.
    names = [
        name
        for networks in (TIMED, others)
        for batch in BATCHES
        for precision in reversed(PRECISIONS[platform])
        for network in networks
        for name in (
            f"train/{network}/tuning/{precision}/batch{batch}",
            f"infer/{network}/{precision}/batch{batch}",
        )
        if name in known
    ]
    if arguments.quick:
        names = ["train/quickstart/whole/float32/batch16", "infer/vgg16/float32/batch1"]
    return [_benchmark(arguments, name, f"^{name}$", 240) for name in names]


def details(arguments: argparse.Namespace, platform: str, records) -> list[Check]:
    """Part 3: a profile of the step that is slowest beside torch's, parts, memory, input."""
    quick = arguments.quick
    slowest = slowest_step(records) or f"train/{TIMED[0]}/tuning/bfloat16/batch8"
    batch = "1" if platform == CPU else "8"
    found = [
        _case("profile", "profile", 240, case=slowest, quick=quick),
        _benchmark(arguments, "parts/nms", "^nms/", 150),
        _benchmark(arguments, "parts/proposals", f"^proposals/.*batch{batch}$", 150),
        _benchmark(arguments, "parts/match", f"^match/.*64_objects/batch{batch}$", 150),
        _benchmark(arguments, "parts/roi", "^roi/", 200),
        _benchmark(arguments, "parts/loss", f"^loss/.*batch{batch}$", 120),
        _case("input", "loader", 120, quick=quick),
    ]
    memory = [case.name for case in benchmark_cases.cases(platform) if case.kind == "memory"]
    memory = [name for name in memory if ("quickstart" in name) == quick]
    memory = [_benchmark(arguments, name, f"^{name}$", 240) for name in memory]
    first = [check for check in memory if "bfloat16" in check.name]
    rest = [check for check in memory if check not in first]
    return [*found, *first, *benchmarks(arguments, platform, records), *rest]


def ratio(of_case: dict[str, Any]) -> float | None:
    """Returns torch's time over ours, by medians; None without both."""
    seconds = [of_case.get(side, {}).get("seconds") for side in ("rpn_jax", "torchvision")]
    if not all(seconds):
        return None
    ours, theirs = map(statistics.median, seconds)
    return theirs / ours


def slowest_step(records: dict[str, dict[str, Any]]) -> str | None:
    """Returns the train step with the lowest ratio; without torch, the longest one of ours."""
    steps = {
        name: record["figures"]["cases"][name]
        for name, record in records.items()
        if name.startswith("train/") and name in record["figures"].get("cases", {})
    }
    ratios = {name: found for name, case in steps.items() if (found := ratio(case))}
    if ratios:
        return min(ratios, key=ratios.get)
    ours = {
        name: statistics.median(seconds)
        for name, case in steps.items()
        if (seconds := case.get("rpn_jax", {}).get("seconds"))
    }
    return max(ours, key=ours.get, default=None)


def error_of(figures: dict[str, Any]) -> str | None:
    """Returns the first error of our side among a benchmark's cases; torch's are its own."""
    for name, case in figures.get("cases", {}).items():
        if error := case.get("rpn_jax", {}).get("error"):
            return f"{name}: {error}"
    return None


def options_of(name: str, is_quick: bool) -> dict[str, Any]:
    """Returns the options of a benchmark's case, by its name on a GPU or a CPU."""
    found = {case.name: case for platform in PRECISIONS for case in benchmark_cases.cases(platform)}
    case = found[name]
    return (benchmark_cases.quick([case])[0] if is_quick else case).options
