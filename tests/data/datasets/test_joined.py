"""A training on several folders: their images, in their shares, with the classes of the first."""

import json

import numpy as np
import pytest
from folders import CocoFolder
from training.small import small_config

from rpn_jax.__main__ import main
from rpn_jax.data.loader import train_batches
from rpn_jax.errors import UserError
from rpn_jax.runs.config_files import located
from rpn_jax.training.begin import check_run
from rpn_jax.training.loop import training_plan
from rpn_jax.training.splits import open_split, open_training


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two folders of COCO, whose classes have another order, and one of other classes."""
    root = tmp_path_factory.mktemp("folders")
    for name in ("one", "two", "cats"):
        folder = CocoFolder(root / name)
        if name == "two":
            folder.content["categories"].reverse()
            folder.content["categories"][0]["id"], folder.content["categories"][1]["id"] = 1, 2
            for annotation in folder.content["annotations"]:
                annotation["category_id"] = {18: 2, 3: 1}[annotation["category_id"]]
        if name == "cats":
            folder.content["categories"][0]["name"] = "cat"
        folder.write()
    return root


def flags(root, more=("two",), *others):
    return (
        "--config.data.dataset=coco_json",
        f"--config.data.data_dir={root / 'prepared'}",
        f"--config.data.source={root / 'one'}",
        f"--config.data.more_sources={tuple(str(root / name) for name in more)}",
        "--config.data.train_split=val",
        "--config.data.eval_split=val",
        "--config.batch_size=8",
        *others,
    )


@pytest.fixture(scope="module")
def prepared(folders):
    (folders / "mine.py").write_text(
        "from rpn_jax.runs.config import default_config\nget_config = default_config\n"
    )
    given = flags(folders, ("two", "cats"))
    assert main(["prepare", f"--config={folders / 'mine.py'}", *given]) == 0
    return folders


def config_of(root, *more):
    return small_config(*flags(root, *more))


def test_the_images_of_all_are_one_dataset(prepared):
    config = config_of(prepared)
    one = open_split(config, "val")
    joined = open_training(config)
    assert len(joined) == 2 * len(one) == 4
    assert joined.class_names == one.class_names
    assert joined.category_ids == one.category_ids
    assert joined.part_of.tolist() == [0, 0, 1, 1]
    assert joined.fingerprint != one.fingerprint
    for i in range(2):
        first, second = joined[i], joined[i + 2]
        assert first.image_bytes == second.image_bytes
        np.testing.assert_array_equal(first.boxes, second.boxes)
        names = [[joined.class_names[label] for label in r.labels] for r in (first, second)]
        assert names[0] == names[1] == [one.class_names[label] for label in one[i].labels]
    np.testing.assert_array_equal(joined.image_classes(), np.tile(one.image_classes(), (2, 1)))
    with pytest.raises(IndexError):
        joined[4]
    reversed_names = joined.class_names[::-1]
    other = joined.with_classes(reversed_names)
    assert [reversed_names[label] for label in other[3].labels] == [
        joined.class_names[label] for label in joined[3].labels
    ]


@pytest.mark.parametrize(
    ("fields", "shares"),
    [
        ((), (0.5, 0.5)),
        (("--config.data.source_weights=(2.0,1.0)",), (2 / 3, 1 / 3)),
        (
            ("--config.data.source_weights=(2,1)", "--config.data.repeat_threshold=1.0"),
            (2 / 3, 1 / 3),
        ),
    ],
)
def test_a_training_shows_the_sources_in_their_shares(prepared, fields, shares):
    config = config_of(prepared, ("two",), *fields)
    run = check_run(config, prepared / "run")
    plan, scales = training_plan(config, run.train_set)
    examples = np.concatenate([plan.batch(step).examples for step in range(150)])
    found = np.bincount(run.train_set.part_of[examples], minlength=2) / len(examples)
    np.testing.assert_allclose(found, shares, atol=0.01)
    counts = np.bincount(examples, minlength=4)
    (batch,) = train_batches(run.train_set, plan, scales, num_steps=1)
    np.testing.assert_array_equal(batch.image_index, plan.batch(0).examples)
    assert (counts > 0).all()
    assert len(run.eval_set) == 2  # of the first alone


@pytest.mark.parametrize(
    ("more", "fields", "line"),
    [
        (
            ("cats",),
            (),
            "more_sources: of the classes of .*one, .*cats lacks dog and has cat too; ",
        ),
        (("gone",), (), "coco_json from .*gone with these options is not prepared there"),
        (("two",), ("--config.data.source=None",), "source has the first folder; give that"),
        (("two",), ("--config.data.source_weights=(1.0,)",), "give 2, one for config.data.source"),
    ],
)
def test_sources_that_do_not_fit_are_one_line(prepared, more, fields, line):
    with pytest.raises(UserError, match=line) as raised:
        open_training(config_of(prepared, more, *fields))
    assert "\n" not in str(raised.value)


def test_a_run_keeps_the_places_of_its_sources(prepared, monkeypatch):
    monkeypatch.chdir(prepared)
    config = config_of(prepared)
    config.data.more_sources = ("two",)
    kept = json.loads(json.dumps(located(config).to_dict()))
    assert kept["data"]["more_sources"] == [str(prepared / "two")]
