"""The checks of `gpu_check.py` that measure: the loader, and the kernels of a step."""

import os
import pathlib
import statistics
import tempfile
import time
from typing import Any

from benchmark_cases import write_jpegs
from gpu_check_plan import options_of


def loader(quick: bool) -> dict[str, Any]:
    """JPEGs decoded, mirrored and resized to 600x800 by the loader of `train`, on all cores."""
    from benchmark_rpn_jax import JpegFolder, batches_of

    count, batch = (16, 2) if quick else (512, 8)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_jpegs(folder, count)
        dataset, seconds = JpegFolder(folder), []
        for _ in range(2 if quick else 4):
            begun = time.perf_counter()
            for _ in batches_of(dataset, batch, num_threads=None):
                pass
            seconds.append(time.perf_counter() - begun)
    rate = count / statistics.median(seconds[1:])
    return {"images_per_second": rate, "cores": os.cpu_count(), "batch": batch}


def profile(case: str, quick: bool) -> dict[str, Any]:
    """The ten kernels of a train step that take longest."""
    import benchmark_rpn_jax

    options = options_of(case, quick)
    timed = benchmark_rpn_jax.train(**options)
    import jax

    count = 3
    for _ in range(3):
        timed.call()
    begun = time.perf_counter()
    for _ in range(count):
        timed.call()
    seconds = (time.perf_counter() - begun) / count
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(count):
                timed.call()
        (trace,) = pathlib.Path(folder).rglob("*.xplane.pb")
        kernels = kernel_seconds(jax.profiler.ProfileData.from_file(str(trace)).planes, count)
    longest = sorted(kernels, key=lambda name: -kernels[name][1])[:10]
    return {
        "case": case,
        "step_s": seconds,
        "kernels": len(kernels),
        "launches": sum(number for number, _ in kernels.values()),
        "kernels_s": sum(of_kernel for _, of_kernel in kernels.values()),
        "longest": [
            {"name": name, "number": kernels[name][0], "seconds": kernels[name][1]}
            for name in longest
        ],
    }


def kernel_seconds(planes, steps: int) -> dict[str, tuple[float, float]]:
    """Returns launches and seconds a step of each kernel in a trace of some steps.

    A GPU's kernels are on lines of its streams. On a CPU they are on lines of XLA's threads.
    """
    planes = list(planes)
    on_gpus = [plane for plane in planes if plane.name.startswith("/device:GPU")]
    prefixes = ("Stream",) if on_gpus else ("tf_XLA",)
    found: dict[str, tuple[float, float]] = {}
    for plane in on_gpus or [plane for plane in planes if plane.name == "/host:CPU"]:
        for line in plane.lines:
            if not line.name.startswith(prefixes):
                continue
            for event in line.events:
                if ":" in event.name and not on_gpus:  # of the thread pool, not a kernel
                    continue
                number, seconds = found.get(event.name, (0.0, 0.0))
                found[event.name] = number + 1 / steps, seconds + event.duration_ns / 1e9 / steps
    return found
