"""Which validation of a run is the best, and when a run ends because none is better."""

import json

import pytest

from rpn_jax.errors import UserError
from rpn_jax.runs.best import Validations, best_kept_step, last_step, read_validations

NAN = float("nan")


def write_metrics(folder, validations, **more):
    rows = [{"step": 1, "train/loss": 1.0}]
    for step, recall in validations.items():
        numbers = {"loss": 1.0, "AR@10": 0.1, "AR@300": recall, "AR@300_small": 0.9, **more}
        rows.append({"step": step, **{f"validation/{name}": x for name, x in numbers.items()}})
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text + '{"step": 99, "valid')  # what a kill may leave


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ({}, None),
        ({10: 0.2, 20: 0.5, 30: 0.5, 40: 0.1}, 20),  # the first of equal ones
        ({10: NAN, 20: 0.0}, 20),
        ({10: NAN, 20: NAN}, 10),
        ({20: 0.1, 10: 0.1}, 10),
    ],
)
def test_the_best_is_the_first_of_the_highest(values, best):
    assert Validations(values).best == best


def test_a_run_is_over_after_so_many_validations_without_a_better_one():
    validations = Validations({}, patience=2)
    over = []
    for step, value in enumerate([0.1, 0.3, 0.2, 0.4, 0.4, NAN]):
        validations.add(step, value)
        over.append(validations.are_over())
    assert over == [False, False, False, False, False, True]
    assert not Validations({1: 0.5, 2: 0.4, 3: 0.3}).are_over()  # without patience


def test_the_headline_is_ap_where_there_is_one(tmp_path):
    write_metrics(tmp_path, {2: 0.5, 4: 0.25})
    assert read_validations(tmp_path) == [(2, 0.5), (4, 0.25)]
    write_metrics(tmp_path, {2: 0.5, 4: 0.25}, AP=0.125)
    assert read_validations(tmp_path) == [(2, 0.125), (4, 0.125)]
    assert read_validations(tmp_path / "nowhere") == []


def test_the_last_step_is_that_of_an_early_end(tmp_path):
    write_metrics(tmp_path, {2: 0.5, 4: 0.25, 6: 0.25})
    assert last_step(tmp_path, 100, None) == 100
    assert last_step(tmp_path, 100, 3) == 100
    assert last_step(tmp_path, 100, 2) == 6


def test_the_best_step_must_have_been_kept(tmp_path):
    with pytest.raises(UserError, match="was not validated, so that no step is the best; give a"):
        best_kept_step(tmp_path, [2, 4])
    write_metrics(tmp_path, {2: 0.5, 4: 0.25})
    assert best_kept_step(tmp_path, [2, 4]) == 2
    with pytest.raises(UserError, match=r"step 2, the best, was not kept; there are those of 4; t"):
        best_kept_step(tmp_path, [4])
