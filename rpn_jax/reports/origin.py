"""The provenance of runs, and the commands that reproduce them."""

from collections.abc import Mapping, Sequence
from typing import Any

from rpn_jax.reports.document import Code, Fold, Part, Section, Table, Text
from rpn_jax.reports.results import Result, Study
from rpn_jax.runs.fingerprint import differing_fields
from rpn_jax.runs.history import FACTS
from rpn_jax.text import shell_line

_TITLE = "What it is made of"
_USES = {"train": "train on", "eval": "validate on"}


def origin_section(study: Study) -> Section:
    """Returns the first run's provenance, from its `runs.jsonl`, and how the others differ."""
    begun = [run for run in study.runs if run.history and run.history.starts]
    if not begun:
        return Section(_TITLE, [Text("No start of a run was recorded.")])
    run = begun[0]
    first, last = run.history.starts[0], run.history.starts[-1]
    data = [
        [_USES.get(use, use), *(str(facts[name]) for name in ("dataset", "split", "images"))]
        + [str(facts["objects"])]
        for use, facts in (last.get("data") or {}).items()
    ]
    header = ["used to", "dataset", "split", "images", "boxes"]
    note = "Boxes are objects and ignore regions (difficult, crowd)."
    weights = first.get("weights")
    began = f"{weights['file']} (SHA-256 {weights['sha256']})" if weights else "random weights"
    parts: list[Part] = [
        Table(header, data, names=3, note=note),
        Text(f"Training began with {began}."),
        Text("It is repeated by" if len(study.runs) == 1 else f"Run {run.name} is repeated by"),
        Code(_commands(run)),
    ]
    if len(begun) > 1:
        commands = [_commands(one)[-1] for one in begun]
        parts += [Fold("Commands of all runs", [Code(commands)]), _differing(begun)]
    facts = {name: last.get(name) for name in FACTS if name not in ("packages", "data", "weights")}
    parts += [
        Fold(f"Fingerprint of {run.name}", [_facts_table(facts)]),
        Fold("Its packages", [_facts_table(last.get("packages") or {})]),
        Fold("Its config", [_facts_table(run.history.config)]),
    ]
    return Section(_TITLE, parts)


def _commands(run: Result) -> list[str]:
    """Returns the commands that restore the source, if it is known, and start the run."""
    start = run.history.starts[0]
    code, lines = start.get("code") or {}, []
    if code.get("commit"):
        lines.append(shell_line(["git", "checkout", code["commit"]]))
    if code.get("local_changes"):
        patch = run.folder / f"local_changes-{code['local_changes']}.patch"
        lines.append(shell_line(["git", "apply", patch]))
    return [*lines, shell_line(["python", "-m", "rpn_jax", *start["command"][1:]])]


def _differing(runs: Sequence[Result]) -> Part:
    first, *others = [{name: run.history.starts[-1].get(name) for name in FACTS} for run in runs]
    rows = [
        [run.name, field, str(theirs), str(ours)]
        for run, facts in zip(runs[1:], others, strict=True)
        for field, (ours, theirs) in differing_fields(first, facts).items()
    ]
    if not rows:
        what = "code, packages, data, weights, machine and environment"
        return Text(f"All runs were made of the same {what}.")
    table = Table(["run", "what", "there", f"in {runs[0].name}"], rows, names=4)
    return Fold("The runs are not all made of the same", [table])


def _facts_table(facts: Mapping[str, Any]) -> Table:
    rows = [[name, str(value)] for name, (_, value) in differing_fields({}, facts).items()]
    return Table(["field", "value"], rows, names=2)
