"""The records of `gpu_check.py` as tables in Markdown."""

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from gpu_check_plan import ratio

Records = dict[str, dict[str, Any]]


def markdown(records: Records, *, is_quick: bool = False) -> str:
    """Returns all that has been found, as a document."""
    parts = [
        _machine(records),
        *(["Tiny shapes: no figure of time means anything."] * is_quick),
        *_section("Sanity", _sanity(records)),
        *_section("Train steps and inference", _whole_steps(records)),
        *_section("Parts alone", _parts(records)),
        *_section("Peak memory", _memory(records)),
        *_section("Input", _input(records)),
        *_section("The slowest step", _profile(records)),
        *_section("Failed", _failures(records)),
    ]
    return "\n\n".join(parts) + "\n"


def table(rows: Sequence[Sequence[object]]) -> str:
    """Returns a Markdown table; the first row is its head."""
    lines = [
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows
    ]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    return "\n".join(lines)


def _section(title: str, rows: list[Sequence[object]]) -> list[str]:
    return [f"## {title}", table(rows)] if len(rows) > 1 else []


def _machine(records: Records) -> str:
    found = records["devices"]["figures"]
    versions = ", ".join(f"{name} {v}" for name, v in found["versions"].items() if v)
    gpu = f"; {found['nvidia_smi']}" if found["nvidia_smi"] else ""
    return (
        f"{found['kind']}, {len(found['devices'])} of them{gpu}; {found['cores']} cores; "
        f"Python {found['python']}, {versions}"
    )


_SANITY = ("step/", "whole/", "repeat/", "gradients/", "losses/", "tests/")


def _sanity(records: Records) -> list[Sequence[object]]:
    rows: list[Sequence[object]] = [("check", "result", "figures", "s")]
    for name, record in records.items():
        if name.startswith(_SANITY):
            figures = ", ".join(_words(record["figures"]))
            rows.append((name, record["status"], figures, f"{record['seconds']:.0f}"))
    return rows


def _words(figures: dict[str, Any]) -> Iterator[str]:
    for name, value in figures.items():
        if isinstance(value, float):
            yield f"{name} {value:.4g}"
        elif isinstance(value, int | str):
            yield f"{name} {value}"
        elif value and all(isinstance(each, str) for each in value):
            yield f"{name} {len({*value})}: {value[0]}"


def _cases(records: Records) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the benchmark's cases, each once: products of matrices accompany many."""
    found = {}
    for record in records.values():
        found |= record["figures"].get("cases", {})
    yield from found.items()


def _ms(of_case: dict[str, Any], side: str) -> str:
    answer = of_case.get(side, {})
    if seconds := answer.get("seconds"):
        return f"{1000 * statistics.median(seconds):,.4g}"
    return "failed" if "error" in answer else ""


def _timing(name: str, of_case: dict[str, Any]) -> tuple[str, ...]:
    found = ratio(of_case)
    return (
        name,
        _ms(of_case, "rpn_jax"),
        _ms(of_case, "torchvision"),
        f"{found:.2f}" if found else "",
    )


def _whole_steps(records: Records) -> list[Sequence[object]]:
    cases = dict(_cases(records))
    rates = {
        name.removeprefix("matmul/"): of_case["rpn_jax"]["flops"]
        / min(
            statistics.median(seconds)
            for answer in (of_case.get("rpn_jax", {}), of_case.get("torchvision", {}))
            if (seconds := answer.get("seconds"))
        )
        for name, of_case in cases.items()
        if name.startswith("matmul/") and of_case["rpn_jax"].get("seconds")
    }
    rows: list[Sequence[object]] = [
        ("ms", "rpn_jax", "torch", "ratio", "images/s", "TFLOP/s", "% of the product's rate")
    ]
    for name, of_case in cases.items():
        if not name.startswith(("train/", "infer/", "matmul/")):
            continue
        ours, end = of_case["rpn_jax"], ("", "", "")
        if ours.get("seconds"):
            seconds = statistics.median(ours["seconds"])
            *_, precision, batch = ["", *name.split("/")]
            rate = ours["flops"] / seconds if ours.get("flops") else 0
            share = f"{100 * rate / rates[precision]:.0f}" if precision in rates and rate else ""
            images = int(batch.removeprefix("batch")) / seconds if "batch" in batch else 0
            end = (f"{images:,.1f}" if images else "", f"{rate / 1e12:,.1f}", share)
        rows.append((*_timing(name, of_case), *end))
    return rows


def _parts(records: Records) -> list[Sequence[object]]:
    rows: list[Sequence[object]] = [("ms", "rpn_jax", "torchvision", "ratio")]
    kinds = ("anchors/", "match/", "proposals/", "nms/", "loss/", "roi/")
    return rows + [_timing(name, case) for name, case in _cases(records) if name.startswith(kinds)]


def _memory(records: Records) -> list[Sequence[object]]:
    rows: list[Sequence[object]] = [("train step", "figure", "rpn_jax", "torchvision")]
    for name, of_case in _cases(records):
        if name.startswith("memory/"):
            theirs = of_case.get("torchvision", {})
            for figure, value in of_case.get("rpn_jax", {}).items():
                cells = [x if isinstance(x, str) else f"{x:,.0f}" for x in (value,)]
                peer = theirs.get(figure)
                cells.append(f"{peer:,.0f}" if isinstance(peer, float) else "")
                rows.append((name.removeprefix("memory/"), figure, *cells))
    return rows


def _input(records: Records) -> list[Sequence[object]]:
    rows: list[Sequence[object]] = [("JPEGs to 600x800", "images/s")]
    figures = records.get("input", {}).get("figures", {})
    if "images_per_second" in figures:
        what = f"batches of {figures['batch']}, {figures['cores']} cores"
        rows.append((what, f"{figures['images_per_second']:,.0f}"))
    return rows


def _profile(records: Records) -> list[Sequence[object]]:
    figures = records.get("profile", {}).get("figures", {})
    rows: list[Sequence[object]] = [("kernel", "number a step", "ms", "% of the step")]
    if "longest" not in figures:
        return rows
    step = figures["step_s"]
    rows += [
        (
            f"`{kernel['name'][:70]}`",
            f"{kernel['number']:.0f}",
            f"{1000 * kernel['seconds']:.3f}",
            f"{100 * kernel['seconds'] / step:.1f}",
        )
        for kernel in figures["longest"]
    ]
    total = figures["kernels_s"]
    rows.append(
        (
            f"all of {figures['case']}: {1000 * step:.2f} ms a step",
            f"{figures['launches']:.0f}",
            f"{1000 * total:.2f}",
            f"{100 * total / step:.1f}",
        )
    )
    return rows


def _failures(records: Records) -> list[Sequence[object]]:
    rows: list[Sequence[object]] = [("check", "message")]
    rows += [(name, r["message"]) for name, r in records.items() if r["status"] != "ok"]
    for name, of_case in _cases(records):
        if error := of_case.get("torchvision", {}).get("error"):
            rows.append((f"{name} of torchvision", error))
    return rows
