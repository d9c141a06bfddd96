"""The evaluations of a sweep: each trained run is measured under several settings of the test.

    Sweep(
        config="voc_folder_faster_rcnn_vgg16",
        axes=[seeds(2)],
        evaluations=settings(
            {
                "300": {},
                "100": {"rpn.proposals.test.post_nms_top_n": 100},
                "300 unranked": {"without": ("ranking",)},
            }
        ),
    )

The fields are a config's, of the test alone; `without` is the flag of `evaluate`. One evaluation
changes nothing: the run's own, by which it is judged. It is in `OUT/RUN/evaluation/SPLIT`, another
in `OUT/RUN/evaluation/SPLIT@NAME`.
"""

import itertools
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rpn_jax.errors import UserError, list_some
from rpn_jax.runs.fields import LEFT_OUT
from rpn_jax.sweeps.axes import Axis

WITHOUT = "without"
# Fields, or beginnings of them, that say how a trained network is used.
_FIELDS = (
    "box.detections.",
    "data.longer_side",
    "data.proposals.eval",
    "data.shorter_side",
    "evaluation.batch_size",
    "evaluation.top_ns",
    "rpn.proposals.min_size",
    "rpn.proposals.nms_threshold",
    "rpn.proposals.test.",
)


def check_evaluations(axis: Axis | None, swept: Iterable[str]) -> None:
    """Raises a `UserError` unless the evaluations can be told apart and change the test alone.

    `swept` are the fields that the axes of the runs change.
    """
    if axis is None:
        return
    names = [setting.name.casefold() for setting in axis.settings]
    if twice := [name for name in names if names.count(name) > 1 or not name]:
        raise UserError(f"evaluations: {twice[0]!r} is there twice, or empty; give other names")
    if sum(not setting.fields for setting in axis.settings) != 1:
        raise UserError(
            "evaluations: give one that changes nothing, {'NAME': {}}: that of the config as it is"
        )
    for name, fields in axis.settings:
        for field in fields.keys() - {WITHOUT}:
            if not field.startswith(_FIELDS):
                raise UserError(
                    f"evaluations: {name} changes {field}, which is not of the test alone; give "
                    f"fields such as {list_some(_FIELDS)}"
                )
            if field in swept:
                raise UserError(f"evaluations: {name} changes {field}, as an axis of the runs does")
        if wrong := [part for part in _parts(fields) if part not in LEFT_OUT]:
            raise UserError(
                f"evaluations: {name} is without {wrong[0]!r}; give parts of {list_some(LEFT_OUT)}"
            )


def _parts(fields: Mapping[str, Any]) -> Sequence[Any]:
    parts = fields.get(WITHOUT, ())
    return parts if isinstance(parts, tuple) else (parts,)


def override_flags(fields: Mapping[str, Any]) -> list[str]:
    """Returns the fields of a config as flags; `without` is not among them."""
    return [
        f"--config.{field}={value if isinstance(value, str) else repr(value)}"
        for field, value in fields.items()
        if field != WITHOUT
    ]


def evaluation_flags(fields: Mapping[str, Any]) -> list[str]:
    """Returns the flags of `evaluate` for the fields of an evaluation."""
    return [*(f"--without={part}" for part in _parts(fields)), *override_flags(fields)]


def evaluation_folder(workdir: pathlib.Path, split: str, name: str = "") -> pathlib.Path:
    """Returns the folder of a run's evaluation; `name` is empty for its own."""
    return workdir / "evaluation" / (f"{split}@{name}" if name else split)


def other_evaluations(sweep: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Returns the fields of each evaluation of a `sweep.json` that is not the runs' own, by name.

    Raises:
        ValueError: they are something else.
    """
    evaluations = sweep.get("evaluations") or {}
    if not isinstance(evaluations, dict):
        raise ValueError("evaluations that are none")
    if not all(isinstance(fields, dict) for fields in evaluations.values()):
        raise ValueError("an evaluation without fields")
    return {name: fields for name, fields in evaluations.items() if fields}


def measured_settings(
    settings: Iterable[str], evaluations: Sequence[str]
) -> dict[tuple[str, str], str]:
    """Returns the name of each setting under each evaluation.

    It is that of both, with a comma; of the evaluation alone where there is one setting; of the
    setting alone without evaluations, which then have the name "".
    """
    names = list(dict.fromkeys(settings))
    pairs = list(itertools.product(names, evaluations or [""]))
    if len(names) == 1 and evaluations:
        return {(name, evaluation): evaluation for name, evaluation in pairs}
    return {pair: ",".join(filter(None, pair)) for pair in pairs}
