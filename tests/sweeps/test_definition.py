"""What a sweep expands to, how its runs are named, and one clear line for what is wrong with it."""

import json
import pathlib

import numpy as np
import pytest

from rpn_jax.errors import UserError
from rpn_jax.sweeps.definition import (
    Sweep,
    choice,
    expand,
    grid,
    load_sweep,
    log_uniform,
    random_search,
    seeds,
    settings,
    uniform,
)
from rpn_jax.sweeps.published import Published, read_published

ROOT = pathlib.Path(__file__).parents[2]
SHAPES = str(ROOT / "configs" / "shapes.py")


def folders(*axes, **options) -> list[str]:
    return [run.folder for run in expand(Sweep(SHAPES, axes, **options))]


def test_runs_are_the_product_of_the_axes_in_order():
    runs = expand(
        Sweep(SHAPES, [grid({"rpn.loss.balance": (10.0, 0.5), "steps": (3, 4)}), seeds(2)])
    )
    assert [run.folder for run in runs] == [
        "rpn.loss.balance=10,steps=3,seed=0",
        "rpn.loss.balance=10,steps=3,seed=1",
        "rpn.loss.balance=10,steps=4,seed=0",
        "rpn.loss.balance=10,steps=4,seed=1",
        "rpn.loss.balance=0.5,steps=3,seed=0",
        "rpn.loss.balance=0.5,steps=3,seed=1",
        "rpn.loss.balance=0.5,steps=4,seed=0",
        "rpn.loss.balance=0.5,steps=4,seed=1",
    ]
    assert runs[3].overrides == {"rpn.loss.balance": 10.0, "steps": 4, "seed": 1}
    assert runs[3].setting == runs[2].setting == "rpn.loss.balance=10,steps=4"


def test_folders_are_named_by_what_differs():
    assert folders(grid({"optimizer.learning_rate": (1e-5, 0.1)})) == [
        "optimizer.learning_rate=1e-05",
        "optimizer.learning_rate=0.1",
    ]
    assert folders(grid({"rpn.anchors.sizes": ((20.0, 30.5), ((8.0,), (16.0, 32.0)))})) == [
        "rpn.anchors.sizes=20_30.5",
        "rpn.anchors.sizes=8__16_32",
    ]
    assert folders(grid({"model.pretrained": ("a b/c.npz", None)})) == [
        "model.pretrained=a-b-c.npz",
        "model.pretrained=None",
    ]
    assert folders(grid({"rpn.anchors.sizes": {"one": (20.0,), "two": (20.0, 30.0)}})) == [
        "rpn.anchors.sizes=one",
        "rpn.anchors.sizes=two",
    ]
    assert folders(grid({"rpn.loss.balance": np.logspace(0, 1, 2)})) == [
        "rpn.loss.balance=1",
        "rpn.loss.balance=10",
    ]
    assert folders(
        settings({"short": {"steps": 5, "batch_size": 2}, "plain": {}}), seeds((7,))
    ) == ["short,seed=7", "plain,seed=7"]
    assert folders(settings([{"steps": 5, "batch_size": 2}, {"steps": 6}])) == [
        "steps=5,batch_size=2",
        "steps=6",
    ]


def test_a_random_search_follows_from_its_seed_and_grows_at_its_end():
    ranges = {
        "optimizer.learning_rate": log_uniform(1e-4, 1e-2),
        "rpn.loss.balance": uniform(1, 3),
        "batch_size": choice(range(1, 9)),
    }
    drawn = random_search(40, ranges, seed=3)
    assert random_search(10, ranges, seed=3).settings == drawn.settings[:10]
    assert random_search(10, ranges, seed=4).settings != drawn.settings[:10]
    fields = [setting.fields for setting in drawn.settings]
    rates = [row["optimizer.learning_rate"] for row in fields]
    assert 1e-4 <= min(rates) < 1e-3 < max(rates) <= 1e-2
    # Half of the draws lie below the geometric mean of the ends, not the arithmetic one.
    assert 10 <= sum(rate < 1e-3 for rate in rates) <= 30
    assert all(1 <= row["rpn.loss.balance"] <= 3 for row in fields)
    assert {row["batch_size"] for row in fields} == set(range(1, 9))
    assert all(float(f"{rate:.4g}") == rate for rate in rates)
    assert len(set(folders(drawn))) == 40


def write(tmp_path, body: str) -> str:
    file = tmp_path / "sweep.py"
    file.write_text(
        "from rpn_jax.sweeps.definition import *\n"
        f"def get_sweep():\n    return Sweep(config={SHAPES!r}, {body})\n"
    )
    return str(file)


def test_a_sweep_file_gives_flags_configs_and_a_record(tmp_path):
    axes = 'axes=[grid({"rpn.anchors.sizes": ((20.0,), (30.0, 40.0))}), seeds((4, 5))]'
    path = write(tmp_path, f'fixed={{"steps": 7}}, base="rpn.anchors.sizes=30_40", {axes}')
    plan = load_sweep(path, ["--config.batch_size=2", "--config.steps=9"])
    assert [config.rpn.anchors.sizes for config in plan.configs] == [(20.0,)] * 2 + [
        (30.0, 40.0)
    ] * 2
    assert {(config.steps, config.batch_size) for config in plan.configs} == {(9, 2)}
    assert plan.flags(plan.runs[3]) == [
        f"--config={SHAPES}",
        "--config.steps=7",
        "--config.batch_size=2",
        "--config.steps=9",
        "--config.rpn.anchors.sizes=(30.0, 40.0)",
        "--config.seed=5",
    ]
    record = json.loads(plan.record_json())
    assert record["published"] is None
    assert record["base"] == "rpn.anchors.sizes=30_40,seed=4"
    assert record["seed_field"] == "seed"
    assert record["fields"] == ["rpn.anchors.sizes", "seed"]
    assert record["runs"][0] == {
        "folder": "rpn.anchors.sizes=20,seed=4",
        "setting": "rpn.anchors.sizes=20",
        "overrides": {"rpn.anchors.sizes": [20.0], "seed": 4},
    }


def test_published_figures_go_to_the_record(tmp_path):
    beside = 'Published("table 1", "mAP", {"steps=4": 66.7})'
    path = write(tmp_path, f'axes=[grid({{"steps": (3, 4)}}), seeds(2)], published={beside}')
    record = json.loads(load_sweep(path).record_json())
    assert read_published(record["published"]) == Published("table 1", "mAP", {"steps=4": 66.7})


def test_evaluations_are_flags_of_evaluate(tmp_path):
    ways = '{"300": {}, "no NMS": {"rpn.proposals.test.post_nms_top_n": 6000, "without": ["nms"]}}'
    axis = 'axes=[settings({"short": {"steps": 3}, "long": {"steps": 4}})]'
    beside = 'published=Published("table 2", "mAP", {"short,no-NMS": 55.2})'
    plan = load_sweep(write(tmp_path, f"{axis}, evaluations=settings({ways}), {beside}"))
    assert plan.evaluations == {
        "no-NMS": ["--without=nms", "--config.rpn.proposals.test.post_nms_top_n=6000"]
    }
    record = json.loads(plan.record_json())
    assert list(record["evaluations"]) == ["300", "no-NMS"]
    assert record["evaluations"]["300"] == {}
    assert [run["folder"] for run in record["runs"]] == ["short", "long"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ('axes=[grid({"loss.balanc": (1.0,)})]', "did you mean --config.rpn.loss.balance=…?"),
        ('axes=[grid({"steps": (1.5,)})]', "--config.steps=1.5: give a value of type int"),
        ('axes=[grid({"model.backbone": (18,)})]', "model.backbone=18: give a value of type str"),
        ('axes=[grid({"steps": ()})]', "axes: number 1 is empty"),
        ("axes=[seeds(2), grid({})]", "axes: number 2 is empty"),
        ("axes=[]", "axes: there is none"),
        ('axes=[grid({"steps": (3, 3)})]', "two runs would share the folder steps=3"),
        (
            'axes=[settings({"a b": {"steps": 3}, "a-B": {"steps": 4}})]',
            "two runs would share the folder a-B: {'steps': 3} and {'steps': 4}",
        ),
        ('axes=[grid({"steps": (3,)}), settings([{"steps": 4}])]', "steps: is changed twice"),
        ('fixed={"seed": 1}, axes=[seeds(2)]', "seed: is changed twice"),
        ('axes=[grid({"steps": (3,)})], base="steps=4"', "which are: steps=3"),
        (
            'axes=[grid({"steps": (3,)})], published=Published("table 1", "mAP", {"steps=4": 5})',
            "published: 'steps=4' is none of the settings, which are: steps=3",
        ),
        (
            'axes=[settings({"a": {}})], published=Published("it", "mAP", {"a": float("nan")})',
            "published: a is nan; give a number of per cent, such as 69.9",
        ),
        (
            'axes=[grid({"steps": (3,)})], published=Published("table 1", "mAP", {})',
            "published: has no values",
        ),
        (
            'axes=[seeds(2)], evaluations=settings({"a": {"steps": 3}, "b": {}})',
            "evaluations: a changes steps, which is not of the test alone; give fields such as box",
        ),
        (
            'axes=[seeds(2)], evaluations=settings({"a": {"rpn.proposals.test.post": 3}, "b": {}})',
            "did you mean --config.rpn.proposals.test.post_nms_top_n",
        ),
        (
            'axes=[seeds(2)], evaluations=settings({"a": {"without": ("noise",)}, "b": {}})',
            "evaluations: a is without 'noise'; give parts of nms, ranking, regression",
        ),
        (
            'axes=[seeds(2)], evaluations=settings({"a": {"without": ("nms",)}})',
            "evaluations: give one that changes nothing, {'NAME': {}}",
        ),
        (
            'axes=[seeds(2)], evaluations=settings({"a b": {"without": ("nms",)}, "a-B": {}})',
            "evaluations: 'a-b' is there twice",
        ),
        (
            'axes=[grid({"rpn.proposals.min_size": (1.0,)})], '
            'evaluations=settings({"a": {"rpn.proposals.min_size": 2.0}, "b": {}})',
            "evaluations: a changes rpn.proposals.min_size, as an axis of the runs does",
        ),
        (
            'axes=[seeds(2)], published=Published("it", "mAP", {"c": 1.0}), '
            'evaluations=settings({"a": {"without": "nms"}, "b": {}})',
            "published: 'c' is none of the settings, which are: a, b",
        ),
        ('axes=[settings({"logs": {"steps": 4}})]', "'logs': cannot be the name"),
        ('axes=[settings({"x" * 200: {"steps": 4}})]', "too long"),
        ('axes=[random_search(2, {"steps": log_uniform(0, 1)})]', "log_uniform(0, 1)"),
        ('axes=[random_search(2, {"steps": choice([])})]', "choice: has no values"),
        ("axes=[nosuch]", "NameError: name 'nosuch' is not defined"),
    ],
)
def test_what_is_wrong_with_a_sweep_is_told_in_a_line(body, says, tmp_path):
    path = write(tmp_path, body)
    with pytest.raises(UserError) as error:
        load_sweep(path)
    line = str(error.value)
    assert line.startswith(f"--sweep={path}: ")
    assert says in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("axes", [seeds(2), 3], r"axes: number 2 is 3; give a grid, settings, seeds or a random"),
        ("axes", seeds(2), r"axes: give a list, \[grid\(…\), seeds\(…\)\]"),
        ("evaluations", 3, r"evaluations: is 3; give settings\({NAME: …}\)"),
    ],
)
def test_what_is_no_axis_is_told_in_a_line(field, value, says):
    sweep = Sweep("shapes", [seeds(2)])
    object.__setattr__(sweep, field, value)  # the tests check the types of arguments, users do not
    with pytest.raises(UserError, match=says):
        expand(sweep)


def test_a_file_that_returns_no_sweep_is_told_in_a_line(tmp_path):
    path = tmp_path / "sweep.py"
    path.write_text("def get_sweep():\n  pass\n")
    with pytest.raises(UserError, match=r"get_sweep\(\) returns None; it is to return a Sweep"):
        load_sweep(str(path))


def test_a_flag_must_not_change_what_the_sweep_changes(tmp_path):
    path = write(tmp_path, "axes=[seeds(2)]")
    with pytest.raises(UserError, match="--config.seed: the sweep itself changes it"):
        load_sweep(path, ["--config.seed=3"])


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_sweep(str(tmp_path / "none.py"))


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "sweeps").glob("[!_]*.py")), ids=str)
def test_the_shipped_sweeps_are_found_by_name_from_any_folder(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    plan = load_sweep(path.stem)
    assert len(plan.runs) == {"shapes": 12, "voc_one_stage": 4, "voc_proposals": 2}.get(
        path.stem, 8
    )
    assert json.loads(plan.record_json())["seed_field"] == "seed"
    assert f"--sweep={path.stem}" in path.read_text()
