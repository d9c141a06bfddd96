"""What differs between two runs, and where their losses part: what the command `compare` prints."""

import pathlib
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from rpn_jax.errors import UserError
from rpn_jax.runs.fingerprint import differing_fields
from rpn_jax.runs.history import FACTS, read_run
from rpn_jax.runs.workdir import load_workdir_config
from rpn_jax.tables import format_table
from rpn_jax.trained.load import load_trained
from rpn_jax.weights.model_file import flat_names

RELATIVE = (0.0, 1e-6, 1e-4, 1e-2)
_WIDEST = 32  # characters of a value that has a place in the table


def compare_runs(a: pathlib.Path, b: pathlib.Path) -> dict[str, Any]:
    """Returns what differs between two runs, as JSON holds it.

    Keys:
      runs: folder, last logged step, steps to do and number of starts of each run.
      config, code, packages, data, weights, machine, environment: both values of each field that
        differs, of the last start; None unless both runs recorded them.
      changes: of each run, what changed on the way: the step, and old and new value by field.
      losses: how many rows of `metrics.jsonl` are means over the same steps in both, where the
        training losses first differ by more than each of `RELATIVE`, and where they do most.
      validation: the last step at which both were validated, and both values of each figure.
      parameters: the newest step of which both have a checkpoint, and for each part of the network
        whether what evaluation uses of it is bit for bit equal, the norm of the difference over
        that of the values, and the array that differs most, by its largest difference over its
        largest value; or why they were not compared.
      differs: the names of the others that are not the same.

    Raises:
        UserError: one folder is no run's, or both are the same.
    """
    if a.resolve() == b.resolve():
        raise UserError(f"{b}: is the same folder as {a}; give two runs")
    runs = read_run(a), read_run(b)
    ours, theirs = (_facts(run.starts) for run in runs)
    result = {
        "runs": [
            {
                "folder": str(run.folder),
                "step": run.step,
                "steps": run.config["steps"],
                "starts": len(run.starts),
            }
            for run in runs
        ],
        "config": differing_fields(*(run.config for run in runs)),
        **{
            name: differing_fields(ours[name], theirs[name])
            if name in ours and name in theirs
            else None
            for name in FACTS
        },
        "changes": [_changes(run.starts) for run in runs],
        "losses": _part_losses(*(run.losses for run in runs)),
        "validation": _validation(*(run.validations for run in runs)),
        "parameters": _parameters(*(run.folder for run in runs)),
    }
    differs = [name for name in ("config", *FACTS) if result[name]]
    if result["changes"][0] != result["changes"][1]:
        differs.append("changes")
    if result["losses"]["first"][0]["step"] is not None:
        differs.append("losses")
    if not all(_same(*pair) for pair in result["validation"]["figures"].values()):
        differs.append("validation")
    if not all(part["equal"] for part in result["parameters"]["parts"].values()):
        differs.append("parameters")
    return {**result, "differs": differs}


def _facts(starts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns what the last start was made of, and the weights that the first one read."""
    if not starts:
        return {}
    weights = [row["weights"] for row in starts if row.get("weights")]
    return {**starts[-1], **({"weights": weights[0]} if weights else {})}


def _changes(starts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    facts = [{name: row[name] for name in FACTS if name in row} for row in starts]
    for row in facts:
        row.pop("weights", None)  # told by the first start alone
    changes = [
        {"step": start["step"], "fields": differing_fields(before, after)}
        for start, before, after in zip(starts[1:], facts, facts[1:], strict=False)
    ]
    return [change for change in changes if change["fields"]]


def _part_losses(
    a: dict[tuple[int, int], float], b: dict[tuple[int, int], float]
) -> dict[str, Any]:
    common = sorted(a.keys() & b.keys())
    rows = [
        {
            "step": last,
            "values": (ours, theirs),
            "relative": _ratio(abs(ours - theirs), max(abs(ours), abs(theirs))),
        }
        for (_, last), ours, theirs in ((steps, a[steps], b[steps]) for steps in common)
    ]
    nowhere = {"step": None, "values": None, "relative": None}
    return {
        "rows": len(rows),
        "last_step": rows[-1]["step"] if rows else None,
        "first": [
            {
                "beyond": bound,
                **next((row for row in rows if row["relative"] > bound), nowhere),
            }
            for bound in RELATIVE
        ],
        "most": max(rows, key=lambda row: row["relative"], default=nowhere),
    }


def _validation(a: dict[int, dict[str, float]], b: dict[int, dict[str, float]]) -> dict[str, Any]:
    step = max(a.keys() & b.keys(), default=None)
    if step is None:
        return {"step": None, "figures": {}}
    names = [name for name in a[step] if name in b[step]]
    return {"step": step, "figures": {name: (a[step][name], b[step][name]) for name in names}}


def _same(a: float, b: float) -> bool:
    """Whether two figures are equal; those of nothing, such as the recall of no object, are."""
    return a == b or (a != a and b != b)


def _parameters(a: pathlib.Path, b: pathlib.Path) -> dict[str, Any]:
    step = max(_checkpoint_steps(a) & _checkpoint_steps(b), default=None)
    if step is None:
        return {"step": None, "parts": {}, "reason": "there is no checkpoint of the same step"}
    try:
        ours, theirs = (
            dict(flat_names(jax.device_get(load_trained(load_workdir_config(run), run, step)[1])))
            for run in (a, b)
        )
    except UserError as error:
        return {"step": step, "parts": {}, "reason": str(error)}
    if _shapes(ours) != _shapes(theirs):
        return {"step": step, "parts": {}, "reason": "the networks have not the same arrays"}
    parts = dict.fromkeys(name.split("/")[1] for name in ours)
    return {
        "step": step,
        "parts": {
            part: _compare_part({n: (ours[n], theirs[n]) for n in ours if n.split("/")[1] == part})
            for part in parts
        },
        "reason": None,
    }


def _checkpoint_steps(folder: pathlib.Path) -> set[int]:
    folders = (folder / "checkpoints").glob("*")
    # What is being written has a longer name.
    return {int(path.name) for path in folders if path.name.isdigit()}


def _shapes(arrays: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items()}


def _compare_part(pairs: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    relative = {}
    squares = np.zeros(3)
    for name, (ours, theirs) in pairs.items():
        is_equal = ours.tobytes() == theirs.tobytes()
        ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
        difference = ours - theirs
        squares += [np.square(x).sum() for x in (difference, ours, theirs)]
        if not is_equal:
            difference, ours, theirs = (np.abs(x).max() for x in (difference, ours, theirs))
            relative[name] = _ratio(difference, max(ours, theirs))
    array = max(relative, key=relative.get, default=None)
    difference, ours, theirs = np.sqrt(squares)
    return {
        "arrays": len(pairs),
        "equal": not relative,
        "relative_norm": _ratio(difference, max(ours, theirs)),
        "most": {"array": array, "relative": relative.get(array, 0.0)},
    }


def _ratio(difference: float, value: float) -> float:
    return float(difference / value) if difference else 0.0


def format_comparison(comparison: dict[str, Any]) -> str:
    """Returns the result of `compare_runs` as tables; what is the same is told in a line."""
    groups = {name: comparison[name] for name in ("config", *FACTS)}
    same = [name for name, fields in groups.items() if fields == {}]
    unknown = [name for name, fields in groups.items() if fields is None]
    runs = format_table(
        [
            (
                f"{letter}  {run['folder']}",
                f"step {run['step']} of {run['steps']}",
                f"{run['starts']} start{'' if run['starts'] == 1 else 's'}",
            )
            for letter, run in zip("AB", comparison["runs"], strict=True)
        ]
    )
    lines = [
        *([f"same: {', '.join(same)}"] if same else []),
        *([f"not recorded by both: {', '.join(unknown)}"] if unknown else []),
    ]
    blocks = [
        runs,
        "\n".join(lines),
        _facts_table({name: fields for name, fields in groups.items() if fields}),
        _changes_lines(comparison["changes"]),
        _losses_table(comparison["losses"]),
        _validation_table(comparison["validation"]),
        _parameters_table(comparison["parameters"]),
    ]
    return "\n\n".join(block for block in blocks if block)


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
    text = str(value)
    return text[:12] if re.fullmatch(r"[0-9a-f]{40,}", text) else text


def _changes_lines(changes: Sequence[Sequence[dict[str, Any]]]) -> str:
    lines = [
        f"  {letter} from step {change['step']}: "
        + "; ".join(
            f"{field} {_show(before)} -> {_show(after)}"
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
        if not _same(ours, theirs)
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
