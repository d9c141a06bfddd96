"""What the command `compare` prints: the differences of two runs as tables."""

import re
from collections.abc import Sequence
from typing import Any

from rpn_jax.runs.history import FACTS
from rpn_jax.sweeps.compare import same
from rpn_jax.tables import format_table
from rpn_jax.text import printable

_WIDEST = 32  # most characters of a value in the table


def format_comparison(comparison: dict[str, Any]) -> str:
    """Returns the result of `compare_runs` as tables; one line names what is the same."""
    groups = {name: comparison[name] for name in ("config", *FACTS)}
    blocks = [
        _runs_table(comparison["runs"]),
        _same_lines(groups),
        _facts_table({name: fields for name, fields in groups.items() if fields}),
        _changes_lines(comparison["changes"]),
        _losses_table(comparison["losses"]),
        _validation_table(comparison["validation"]),
        _parameters_table(comparison["parameters"]),
    ]
    return "\n\n".join(block for block in blocks if block)


def _runs_table(runs: Sequence[dict[str, Any]]) -> str:
    return format_table(
        [
            (
                f"{letter}  {run['folder']}",
                f"step {run['step']} of {run['steps']}",
                f"{run['starts']} start{'' if run['starts'] == 1 else 's'}",
            )
            for letter, run in zip("AB", runs, strict=True)
        ]
    )


def _same_lines(groups: dict[str, dict | None]) -> str:
    same = [name for name, fields in groups.items() if fields == {}]
    unknown = [name for name, fields in groups.items() if fields is None]
    lines = [
        *([f"same: {', '.join(same)}"] if same else []),
        *([f"not recorded by both: {', '.join(unknown)}"] if unknown else []),
    ]
    return "\n".join(lines)


def _facts_table(groups: dict[str, dict[str, tuple[Any, Any]]]) -> str:
    rows = []
    for name, fields in groups.items():
        rows.append((name, "A", "B") if not rows else (name,))
        for field, pair in fields.items():
            ours, theirs = map(_show, pair)
            if max(len(ours), len(theirs)) <= _WIDEST:
                rows.append((f"  {field}", ours, theirs))
            else:
                rows += [(f"  {field}",), (f"    A: {ours}",), (f"    B: {theirs}",)]
    return format_table(rows) if rows else ""


def _show(value: Any) -> str:
    if value is None:
        return "-"
    text = printable(value)
    return text[:12] if re.fullmatch(r"[0-9a-f]{40,}", text) else text


def _changes_lines(changes: Sequence[Sequence[dict[str, Any]]]) -> str:
    lines = [
        f"  {letter} from step {change['step']}: "
        + "; ".join(
            f"{printable(field)} {_show(before)} -> {_show(after)}"
            for field, (before, after) in change["fields"].items()
        )
        for letter, run in zip("AB", changes, strict=True)
        for change in run
    ]
    return "\n".join(["changed on the way", *lines]) if lines else ""


def _losses_table(losses: dict[str, Any]) -> str:
    if not losses["rows"]:
        return "training loss: no step was logged by both"
    over = f"{losses['rows']} rows of both, to step {losses['last_step']}"
    if losses["merged"]:
        over += f"; in {losses['merged']} the means of those that one logged more often"
    if losses["first"][0]["step"] is None:
        return f"training loss: the same in {over}"
    rows = [("training loss", "step", "A", "B", "relative")]
    shown = object()
    for first in losses["first"]:
        # What parts by more than a bound at the same row is told by the row above.
        if first["step"] == shown:
            continue
        shown = first["step"]
        beyond = f"beyond {first['beyond']:.0e}".replace("e-0", "e-")
        name = f"  first {beyond if first['beyond'] else 'different'}"
        rows.append((name, *_loss_cells(first)))
    rows.append(("  most different", *_loss_cells(losses["most"])))
    return f"{format_table(rows)}\n  {over}"


def _loss_cells(row: dict[str, Any]) -> tuple[str, ...]:
    if row["step"] is None:
        return "never", "", "", ""
    return str(row["step"]), *(f"{value:.8g}" for value in row["values"]), f"{row['relative']:.1e}"


def _validation_table(validation: dict[str, Any]) -> str:
    step, figures = validation["step"], validation["figures"]
    if step is None:
        return "validation: there is none at the same step"
    rows = [
        (f"  {name}", f"{ours:.6g}", f"{theirs:.6g}", f"{theirs - ours:+.2g}")
        for name, (ours, theirs) in figures.items()
        if not same(ours, theirs)
    ]
    title = f"validation at step {step}"
    if not rows:
        return f"{title}: the same"
    table = format_table([(title, "A", "B", "B - A"), *rows])
    rest = len(figures) - len(rows)
    return f"{table}\n  {rest} others are the same" if rest else table


def _parameters_table(parameters: dict[str, Any]) -> str:
    if parameters["reason"]:
        return f"parameters: not compared: {parameters['reason']}"
    title = f"parameters at step {parameters['step']}"
    parts = parameters["parts"]
    if all(part["equal"] for part in parts.values()):
        arrays = sum(part["arrays"] for part in parts.values())
        return f"{title}: bit for bit equal ({arrays} arrays)"
    rows = [
        (f"  {name}", *("bit for bit equal", "", ""))
        if part["equal"]
        else (
            f"  {name}",
            f"{part['relative_norm']:.1e}",
            f"{part['most']['relative']:.1e}",
            part["most"]["array"],
        )
        for name, part in parts.items()
    ]
    return format_table([(title, "|A - B| / |A|", "max |a - b| / max |a|", "of array"), *rows])
