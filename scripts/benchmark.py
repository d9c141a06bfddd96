"""Times this project against torch and torchvision on one machine, in one run.

    python scripts/benchmark.py --list
    python scripts/benchmark.py --torch_python=PYTHON --json=FILE [--cases=REGEX] [--rounds=N]

PYTHON has torch and torchvision (2.13 and 0.28 were used); without it our side runs alone. Each
side is a process of its own, `benchmark_rpn_jax.py` and `benchmark_torchvision.py`, and they take
turns: a round is one timing of ours and one of theirs, while the other side waits for its pipe. A
side's first call in each round is not timed: training and inference are not interrupted either.
The tables give medians over the rounds with the quartiles beside them; a ratio above 1 is in our
favour. What comes before the first timing (building, compiling, warming up) is in none of them but
in a column of its own. A side that takes longer than ten seconds a call is warmed up with
fewer of them, and a case has no further rounds after a minute of them.

A side does the same work for the same input: pixels as bytes on the host to updated parameters, or
to boxes on the host. torchvision's training forward also makes proposals, for its detector; here it
makes none, as our training does not. FLOPs are what XLA counts in our step as a TPU would run it,
whatever runs it here: a convolution by Winograd's algorithm needs fewer, and can be above 100 % of
the rate that the best product of large matrices had, of either side, in the same precision and run.
"""

import argparse
import json
import pathlib
import re
import statistics
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from benchmark_cases import CPU, GPU, Case, cases, choose, quick, with_images
from benchmark_sides import OURS, THEIRS, Sides

from rpn_jax.tables import format_table

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
            if "count" in case.options:
                case = with_images(case, arguments.images, folder)
            results[case.name] = sides.measure(case) if case.alone else sides.time(case, rounds)
            if arguments.json:
                report = {"facts": sides.facts, "rounds": rounds, "cases": results}
                arguments.json.write_text(json.dumps(report, indent=1))
    print("", *tables(chosen, results), sep="\n\n")


if __name__ == "__main__":
    main()
