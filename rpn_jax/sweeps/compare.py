"""Comparison of two runs: what differs, and the step at which their losses part."""

import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from rpn_jax.errors import UserError
from rpn_jax.runs.fingerprint import differing_fields
from rpn_jax.runs.history import FACTS, read_run
from rpn_jax.runs.workdir import load_workdir_config
from rpn_jax.trained.load import load_trained
from rpn_jax.weights.model_file import flat_names

RELATIVE = (0.0, 1e-6, 1e-4, 1e-2)
_ROUNDING = 1e-6  # relative rounding error of a mean of logged means


def compare_runs(a: pathlib.Path, b: pathlib.Path) -> dict[str, Any]:
    """Returns the differences between two runs, as JSON types.

    Keys:
      runs: folder, last logged step, config's steps and number of starts of each run.
      config, code, packages, data, weights, machine, environment: both values of each field that
        differs at the last start; None unless both runs recorded them.
      changes: changes between the starts of each run: the step, and old and new value by field.
      losses: number of rows of `metrics.jsonl` that end at the same step in both, and number of
        those where one run logged more often, so that the mean of its rows is used; the first step
        at which the training losses differ by more than each of `RELATIVE`, and the step of the
        largest difference.
      validation: last step at which both were validated, and both values of each figure.
      parameters: newest step with a checkpoint in both, and for each part of the network whether
        the variables used by evaluation are bit for bit equal, the norm of the difference over the
        norm of the values, and the array that differs most, by its largest difference over its
        largest value; or the reason why they were not compared.
      differs: names of the other keys that differ.

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
    return {**result, "differs": _differing_names(result)}


def _differing_names(result: dict[str, Any]) -> list[str]:
    differs = [name for name in ("config", *FACTS) if result[name]]
    if result["changes"][0] != result["changes"][1]:
        differs.append("changes")
    if result["losses"]["first"][0]["step"] is not None:
        differs.append("losses")
    if not all(same(*pair) for pair in result["validation"]["figures"].values()):
        differs.append("validation")
    if not all(part["equal"] for part in result["parameters"]["parts"].values()):
        differs.append("parameters")
    return differs


def _facts(starts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the last start's facts, with the weights that the first start read."""
    if not starts:
        return {}
    weights = [row["weights"] for row in starts if row.get("weights")]
    return {**starts[-1], **({"weights": weights[0]} if weights else {})}


def _changes(starts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    facts = [{name: row[name] for name in FACTS if name in row} for row in starts]
    for row in facts:
        row.pop("weights", None)  # recorded by the first start alone
    changes = [
        {"step": start["step"], "fields": differing_fields(before, after)}
        for start, before, after in zip(starts[1:], facts, facts[1:], strict=False)
    ]
    return [change for change in changes if change["fields"]]


def _part_losses(
    a: dict[tuple[int, int], float], b: dict[tuple[int, int], float]
) -> dict[str, Any]:
    ends = {last for _, last in a} & {last for _, last in b}
    # A fork has no rows of what came before it: both are compared from where both have begun a row.
    bounds = [{step for steps in rows for step in steps} for rows in (a, b)]
    begun = max(min(steps, default=0) for steps in bounds)
    first = min((step for step in bounds[0] & bounds[1] if step >= begun), default=0)
    a, b = ({steps: x for steps, x in rows.items() if steps[0] >= first} for rows in (a, b))
    ends = {last for last in ends if last > first}
    rows, merged = [], 0
    for (step, ours, is_ours), (_, theirs, is_theirs) in zip(
        _means(a, ends), _means(b, ends), strict=True
    ):
        relative = _ratio(abs(ours - theirs), max(abs(ours), abs(theirs)))
        if not (is_ours and is_theirs):
            merged += 1
            relative = 0.0 if relative <= _ROUNDING else relative
        rows.append({"step": step, "values": (ours, theirs), "relative": relative})
    nowhere = {"step": None, "values": None, "relative": None}
    return {
        "rows": len(rows),
        "merged": merged,
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


def _means(
    losses: dict[tuple[int, int], float], ends: set[int]
) -> Iterator[tuple[int, float, bool]]:
    """Yields, for each of the steps `ends`, the mean since the step before it in `ends`.

    The mean comes with True if it is one logged row; else it is the mean of several rows, weighted
    by their numbers of steps.
    """
    rows: list[tuple[int, float]] = []
    for (before, last), loss in sorted(losses.items()):
        rows.append((last - before, loss))
        if last in ends:
            steps = sum(count for count, _ in rows)
            is_one = len(rows) == 1
            mean = loss if is_one else sum(count * value for count, value in rows) / steps
            yield last, mean, is_one
            rows = []


def _validation(a: dict[int, dict[str, float]], b: dict[int, dict[str, float]]) -> dict[str, Any]:
    step = max(a.keys() & b.keys(), default=None)
    if step is None:
        return {"step": None, "figures": {}}
    names = [name for name in a[step] if name in b[step]]
    return {"step": step, "figures": {name: (a[step][name], b[step][name]) for name in names}}


def same(a: float, b: float) -> bool:
    """Returns whether two figures are equal; NaN, such as the recall of no object, equals NaN."""
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
    # What is being written has a longer name; what has another one is not by `Checkpoints`.
    names = [path.name for path in (folder / "checkpoints").glob("*") if path.is_dir()]
    return {int(name) for name in names if re.fullmatch("0|[1-9][0-9]*", name)}


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
