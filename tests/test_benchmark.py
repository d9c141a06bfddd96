"""The benchmark's table of cases against the functions of its two sides; nothing is timed."""

import ast
import pathlib
import subprocess
import sys

import benchmark
import benchmark_cases
import pytest

SCRIPTS = pathlib.Path(__file__).resolve().parents[1] / "scripts"


def arguments_of_kinds(script: str) -> dict[str, list[str] | None]:
    """The arguments of each kind's function, None where it takes any; torch is not needed."""
    tree = ast.parse((SCRIPTS / script).read_text())
    functions = {node.name: node.args for node in tree.body if isinstance(node, ast.FunctionDef)}
    (kinds,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "KINDS"
    )
    named = {
        key.value: functions[value.id] for key, value in zip(kinds.keys, kinds.values, strict=True)
    }
    return {
        kind: None if args.kwarg else [arg.arg for arg in args.args] for kind, args in named.items()
    }


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_every_case_has_a_function_on_each_side_that_takes_part(platform):
    ours = arguments_of_kinds("benchmark_rpn_jax.py")
    theirs = arguments_of_kinds("benchmark_torchvision.py")
    cases = benchmark_cases.cases(platform)
    assert len({case.name for case in cases}) == len(cases)
    for case in [*cases, *benchmark_cases.quick(cases)]:
        options = set(case.options)
        if "count" in options:  # of images, which become a folder
            options = options - {"count"} | {"folder"}
        for kinds in (ours, theirs) if case.peer else (ours,):
            assert kinds[case.kind] is None or set(kinds[case.kind]) == options, case.name
    assert {case.kind for case in cases} == ours.keys()
    assert {case.kind for case in cases if case.peer} == theirs.keys()


def test_the_levels_have_the_anchors_that_their_cases_are_named_after():
    for anchors, field in benchmark_cases.FIELDS.items():
        assert benchmark_cases.LEVELS[field["levels"]](*field["hw"]).num_anchors == anchors


def test_the_command_lists_the_cases_that_match():
    command = [sys.executable, SCRIPTS / "benchmark.py", "--list", "--cases=^nms/.*/6000$"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert listed.split() == ["nms/scattered/6000", "nms/crowded/6000"]


def test_a_ratio_is_of_medians_and_says_how_often_ours_is_faster():
    case = benchmark.Case("case", "nms", {})
    sides = {
        benchmark.OURS: {"seconds": [1.0, 9.0, 2.0], "ready_s": 3.0},
        benchmark.THEIRS: {"seconds": [4.0, 3.0, 90.0], "ready_s": 5.0},
    }
    row = benchmark.timing_row(case, sides, {})
    assert len(row) == len(benchmark.TIMING_HEAD)
    assert row[benchmark.TIMING_HEAD.index("ratio")] == "2.00"  # 4 / 2
    assert row[1:4] == ["2,000", "1,500-5,500", "3.0"]


def test_what_the_sides_did_not_do_alike_is_said():
    results = {
        "a": {benchmark.OURS: {"work": {"boxes": 7}}, benchmark.THEIRS: {"work": {"boxes": 8}}},
        "b": {benchmark.OURS: {"work": {"boxes": 7}}, benchmark.THEIRS: {"work": {"boxes": 7}}},
        "c": {benchmark.OURS: {"error": "MemoryError: no"}},
        "d": {benchmark.OURS: {"work": {}}, "busy": 0.5},
    }
    said = list(benchmark.doubts(results))
    assert len(said) == 3
    assert "not the same work" in said[0]
    assert said[1] == "c: rpn_jax failed: MemoryError: no"
    assert "50 % of it during d" in said[2]
