"""`scripts/gpu_check`: what a check's end, crash or silence leaves, and the tables; no GPU."""

import argparse
import json
import sys
import time
import zipfile
from types import SimpleNamespace

import benchmark_cases
import gpu_check
import gpu_check_plan
import pytest
from gpu_check_details import kernel_seconds
from gpu_check_plan import Check
from gpu_check_tables import markdown

WRITES = "import sys; open(sys.argv[-1].removeprefix('--json='), 'w').write('{}')"
FLAGS = {"quick": False, "torch_python": "python", "again": False}


def arguments(**changed):
    return argparse.Namespace(**{"part": 1, **FLAGS, **changed})


def runs(code: str, limit_s: float = 60, name: str = "check") -> Check:
    return Check(name, (sys.executable, "-S", "-c", code), limit_s)


@pytest.mark.parametrize("part", [1, 2, 3])
@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_checks_of_a_part(part, platform):
    checks = gpu_check_plan.checks(arguments(part=part), platform, {})
    assert checks
    assert len({check.name for check in checks}) == len(checks)
    assert max(check.limit_s for check in checks) <= 300
    cases = benchmark_cases.cases(platform)
    for check in checks:
        for flag in check.command:
            if flag.startswith("--cases="):
                assert benchmark_cases.choose(cases, flag.removeprefix("--cases=")), check.name


def test_the_three_models_are_timed_first_in_bfloat16():
    names = [check.name for check in gpu_check_plan.checks(arguments(part=2), "gpu", {})]
    assert len(names) == 9 * 2 * len((*benchmark_cases.NETWORKS, *benchmark_cases.DETECTORS)) - 18
    assert names[:6] == [
        f"{name}/bfloat16/batch8"
        for model in ("faster_rcnn_resnet50_fpn", "mask_rcnn_resnet50_fpn", "vgg16")
        for name in (f"train/{model}/tuning", f"infer/{model}")
    ]


def test_the_step_that_is_profiled_is_a_case():
    name = "train/faster_rcnn_resnet50_fpn/tuning/bfloat16/batch8"
    assert gpu_check_plan.options_of(name, False)["hw"] == (600, 800)
    assert gpu_check_plan.options_of(name, True)["hw"] == benchmark_cases.TINY["hw"]
    (profile,) = (
        check
        for check in gpu_check_plan.checks(arguments(part=3), "gpu", {})
        if check.name == "profile"
    )
    assert json.loads(profile.command[-1])["case"] == name


@pytest.mark.parametrize(
    ("code", "status", "message"),
    [
        (WRITES, "ok", None),
        (WRITES.replace("{}", '{"error": "off by 2"}'), "failed", "off by 2"),
        ("print('one'); raise ValueError('two')", "failed", "ended with status 1: ValueError: two"),
        ("print('ValueError: two'); print('for less, see the manual'); raise SystemExit(1)",
         "failed", "ended with status 1: ValueError: two"),
        ("import os; os.abort()", "failed", "ended with status -6: no output"),
        (WRITES.replace("{}", '{"cases": {"nms/1": {"rpn_jax": {"error": "no"}}}}'), "failed",
         "nms/1: no"),
        (WRITES.replace("{}", '{"cases": {"nms/1": {"torchvision": {"error": "no"}}}}'), "ok",
         None),
    ],
)  # fmt: skip
def test_how_a_check_ends(code, status, message):
    record = gpu_check.run_check(runs(code), 60, {})
    assert (record["status"], record["message"]) == (status, message)
    json.dumps(record)


def test_a_check_that_hangs_is_ended_with_what_it_started():
    code = (
        "import subprocess, sys, time; print('begun', flush=True);"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        "time.sleep(60)"
    )
    record = gpu_check.run_check(runs(code), 0.5, {})
    assert record["status"] == "stopped"
    assert record["message"].startswith("stopped after 0 s: ")
    assert record["seconds"] < 30


def test_a_call_goes_on_where_the_last_one_ended(tmp_path):
    path = tmp_path / "results.jsonl"
    marks = tmp_path / "marks"
    mark = f"open({str(marks)!r}, 'a').write('x');"
    checks = [runs(mark + WRITES, name="a"), runs(mark + "raise SystemExit(3)", name="b")]
    results = gpu_check.Results(path)
    assert gpu_check.run_checks(checks, results, arguments(), {}, time.monotonic() + 100, jobs=2)
    assert marks.read_text() == "xx"
    with path.open("a") as file:
        file.write('{"name": "c", "sta')  # a call that was ended while it wrote

    results = gpu_check.Results(path)
    assert {name: r["status"] for name, r in results.records.items()} == {"a": "ok", "b": "failed"}
    assert gpu_check.run_checks(checks, results, arguments(), {}, time.monotonic() + 100)
    assert marks.read_text() == "xx"
    assert gpu_check.run_checks(checks, results, arguments(again=True), {}, time.monotonic() + 100)
    assert marks.read_text() == "xxx"
    assert gpu_check.Results(path).records.keys() == {"a", "b"}


def test_what_the_calls_end_interrupts_is_left_for_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "LEAST_SECONDS", 0)
    results = gpu_check.Results(tmp_path / "results.jsonl")
    hangs = runs("import time; time.sleep(60)")
    assert not gpu_check.run_checks([hangs], results, arguments(), {}, time.monotonic() + 0.3)
    assert not gpu_check.run_checks([hangs], results, arguments(), {}, time.monotonic() - 1)
    assert results.records == {}


def test_a_folder_without_wheels(tmp_path):
    with pytest.raises(SystemExit, match=r"has no \.whl files"):
        gpu_check.install(tmp_path, tmp_path / "site")


def test_wheels_are_installed_once_and_without_a_network(tmp_path):
    about = "tiny-1.0.dist-info"
    with zipfile.ZipFile(tmp_path / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny.py", "number = 7\n")
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", f"tiny.py,,\n{about}/METADATA,,\n{about}/WHEEL,,\n")
    site = tmp_path / "site"
    gpu_check.install(tmp_path, site)
    assert (site / "tiny.py").read_text() == "number = 7\n"
    (site / "tiny.py").write_text("kept")
    gpu_check.install(tmp_path, site)
    assert (site / "tiny.py").read_text() == "kept"


def record(status="ok", message=None, **figures):
    return {"status": status, "message": message, "seconds": 3.0, "figures": figures}


def timed(ours, theirs=None, **more):
    sides = {"rpn_jax": {"seconds": [ours], **more}}
    return sides | ({"torchvision": {"seconds": [theirs]}} if theirs else {})


RECORDS = {
    "devices": record(
        kind="H100", devices=["cuda:0"], nvidia_smi=None, cores=16, python="3.12",
        versions={"jax": "0.11.2", "torch": None},
    ),
    "step/rpn": record(loss=0.5, found=200),
    "tests/ops": record("failed", "1 failed: tests/ops/test_a.py::b", passed=9, failures=["b"]),
    "train/vgg16/tuning/bfloat16/batch8": record(
        cases={
            "matmul/bfloat16": timed(1.0, flops=8e14),
            "train/vgg16/tuning/bfloat16/batch8": timed(0.02, 0.05, flops=8e12),
        }
    ),
    "train/vgg16/tuning/tf32/batch8": record(
        cases={"train/vgg16/tuning/tf32/batch8": timed(0.08, 0.04, flops=8e12)}
    ),
    "profile": record(
        case="train/vgg16", step_s=0.02, kernels=2, launches=3.0, kernels_s=0.015,
        longest=[{"name": "conv", "number": 2.0, "seconds": 0.01}],
    ),
}  # fmt: skip


def test_tables():
    lines = markdown(RECORDS).splitlines()
    assert lines[0] == "H100, 1 of them; 16 cores; Python 3.12, jax 0.11.2"
    assert "| step/rpn | ok | loss 0.5, found 200 | 3 |" in lines
    assert "| train/vgg16/tuning/bfloat16/batch8 | 20 | 50 | 2.50 | 400.0 | 400.0 | 50 |" in lines
    assert "| `conv` | 2 | 10.000 | 50.0 |" in lines
    assert "| tests/ops | 1 failed: tests/ops/test_a.py::b |" in lines
    assert "## Input" not in lines


def test_the_slowest_step_is_the_one_with_the_lowest_ratio():
    assert gpu_check_plan.slowest_step(RECORDS) == "train/vgg16/tuning/tf32/batch8"
    alone = {
        name: record(cases={name: timed(seconds)})
        for name, seconds in (("train/a", 1.0), ("train/b", 2.0))
    }
    assert gpu_check_plan.slowest_step(alone) == "train/b"
    assert gpu_check_plan.slowest_step({}) is None


def test_seconds_of_kernels():
    def line(name, *events):
        return SimpleNamespace(
            name=name, events=[SimpleNamespace(name=n, duration_ns=t) for n, t in events]
        )

    host = SimpleNamespace(
        name="/host:CPU",
        lines=[
            line("tf_XLAEigen/1", ("sort.0", 4e9), ("end: sort.0", 9e9)),
            line("python", ("f", 1)),
        ],
    )
    gpu = SimpleNamespace(
        name="/device:GPU:0",
        lines=[line("Stream #1", ("conv", 2e9), ("conv", 4e9)), line("XLA Ops", ("conv", 6e9))],
    )
    assert kernel_seconds([host], steps=2) == {"sort.0": (0.5, 2.0)}
    assert kernel_seconds([host, gpu], steps=2) == {"conv": (1.0, 3.0)}
