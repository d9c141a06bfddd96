import re

import pytest

from rpn_jax.__main__ import main
from rpn_jax.errors import UserError
from rpn_jax.runs.config import default_config, flatten
from rpn_jax.runs.config_files import apply_overrides, load_config
from rpn_jax.runs.fields import FIELDS, STAGES, fields_of, nearest_field
from rpn_jax.runs.reference import GROUPS, detectors_with, entries, groups_help, list_fields

START = (
    "from rpn_jax.runs.config import default_config\ndef get_config():\n  c = default_config()\n"
)


def test_every_field_has_an_entry_whose_default_it_accepts():
    for detector in STAGES:
        config = default_config(detector)
        assert flatten(config).keys() == fields_of(detector).keys() - {"data.options"}
        assert flatten(config) == flatten(apply_overrides(config, []))
    for name, (default, rule, meaning) in FIELDS.items():
        assert meaning, name
        assert default is None or rule.accepts(default), name


@pytest.mark.parametrize(
    ("override", "remedy"),
    [
        ("checkpoint.every=0", "give a whole number from 1 up"),
        ("checkpoint.keep=0", "give a whole number from 1 up"),
        ("log_every=0", "give a whole number from 1 up"),
        ("steps=0", "give a whole number from 1 up"),
        ("batch_size=True", "give a whole number from 1 up"),
        ("accumulation=0", "give a whole number from 1 up"),
        ("seed=-1", "give a whole number from 0 to 9223372036854775807"),
        ("seed=9223372036854775808", "give a whole number from 0 to"),
        ("ema_decay=1.0", "give a number from 0 to below 1"),
        ("ema_decay=-0.5", "give a number from 0 to below 1"),
        ("data.shorter_side=0", "give a whole number from 1 to 16384"),
        ("data.shorter_side=1000000", "give a whole number from 1 to 16384"),
        ("data.flip_probability=1.5", "give a number from 0 to 1"),
        ("data.augmentations=('blur',)", "give names of crop and color, and import paths MODULE:"),
        ("data.crop.scales=(0.5,1.5)", "give two numbers above 0 and to 1, the smaller first"),
        ("data.crop.aspect_ratios=()", "give two numbers above 0, the smaller first"),
        ("data.crop.min_overlaps=()", "give numbers from 0 to 1"),
        ("data.color.hue=0.6", "give a number from 0 to 0.5"),
        ("data.repeat_threshold=1.5", "give a number from 0 to 1"),
        ("data.num_buckets=0", "give a whole number from 1 up"),
        ("data.max_objects=0", "give a whole number from 1 to 100000, or None"),
        ("data.num_threads=-1", "give a whole number from 1 up, or None"),
        ("evaluation.batch_size=0", "give a whole number from 1 up, or None"),
        ("evaluation.every=-1", "give a whole number from 0 up"),
        ("evaluation.top_ns=()", "give at least one whole number from 1 up, the smaller first"),
        ("evaluation.top_ns=(50,10)", "the smaller first"),
        ("evaluation.top_ns=(10,10)", "the smaller first"),
        ("evaluation.top_ns=(10.5,)", "whole number"),
        ("model.fpn_channels=0", "give a whole number from 1 to 65536"),
        ("model.norm=batch_norm", "give frozen_batch_norm, sync_batch_norm or group_norm, or None"),
        ("optimizer.backbone_factor=0.0", "give a number above 0"),
        ("optimizer.batch_size_rule=cubic", "give linear or sqrt"),
        ("optimizer.clip_norm=-1.0", "give a number from 0 up"),
        ("optimizer.decay_at=('a',)", "give whole numbers from 0 up"),
        ("optimizer.learning_rate=1e400", "give a number from 0 up"),
        ("optimizer.name=nosuch", "give sgd, adamw or muon"),
        ("optimizer.reference_batch_size=0", "give a whole number from 1 up, or None"),
        ("optimizer.schedule=linear", "give step or cosine"),
        ("data.jitter.scales=(2.0,0.1)", "give two numbers above 0, the smaller first"),
        ("data.jitter.scales=(0.1,)", "give two numbers above 0, the smaller first"),
        ("data.jitter.canvas=(1024,)", "give height and width, each 8 pixels or more"),
        ("data.jitter.scales=(1e-9,1e9)", "give factors of at most 16, which resize to"),
        ("data.jitter.min_side=0.0", "give a number above 0"),
        ("rpn.anchors.aspect_ratios=()", "give numbers above 0"),
        ("rpn.anchors.rounding=up", "give none, torchvision or caffe"),
        ("rpn.anchors.sizes=('a',)", "give numbers above 0, or a tuple of equally many for each"),
        ("rpn.anchors.sizes=((8,),(8,16))", "a tuple of equally many for each level"),
        ("rpn.box_weights=(1.0,)", "give four numbers above 0"),
        ("rpn.box_weights=(1.0,1.0,1.0,0.0)", "give four numbers above 0"),
        ("rpn.loss.beta=-1", "give a number from 0 up"),
        ("rpn.loss.normalizer=foo", "give paper or sampled"),
        ("rpn.proposals.nms_threshold=1.5", "give a number from 0 to 1"),
        ("rpn.proposals.test.post_nms_top_n=0", "give a whole number from 1 up"),
        ("rpn.targets.batch_size_per_image=0", "give a whole number from 1 up"),
        ("rpn.targets.fg_iou_threshold=0.2", "give at most config.rpn.targets.fg_iou_threshold"),
        ("rpn.targets.positive_fraction=2.0", "give a number from 0 to 1"),
    ],
)
def test_a_value_out_of_range_is_one_line_before_anything_is_built(override, remedy):
    with pytest.raises(UserError, match=r"^config\.[^\n]*: give [^\n]*$") as caught:
        apply_overrides(default_config(), [f"--config.{override}"])
    assert remedy in str(caught.value)


@pytest.mark.parametrize(
    "field",
    [
        "data.max_objects",
        "model.fpn_channels",
        "rpn.channels",
        "rpn.convolutions",
        "box.channels",
        "box.pooling.size",
        "box.pooling.sampling_ratio",
        "mask.channels",
        "mask.convolutions",
        "mask.cut_size",
        "mask.pooling.size",
        "mask.pooling.sampling_ratio",
    ],
)
def test_a_network_that_no_machine_can_build_is_refused(field):
    with pytest.raises(UserError, match=rf"^config.{field}=1000000000: give a whole number from "):
        apply_overrides(default_config("mask_rcnn"), [f"--config.{field}=1000000000"])


def test_jitter_and_sides_to_draw_from_exclude_each_other():
    flags = "--config.data.jitter.scales=(0.1,2.0)", "--config.data.shorter_sides=(480,600)"
    with pytest.raises(UserError, match=r"jitter.scales=\(0.1, 2.0\): give \(\) here, or as"):
        apply_overrides(default_config(), flags)


def test_python_is_told_as_the_command_line_is(tmp_path):
    from rpn_jax.training.build import build_detector
    from rpn_jax.training.loop import train

    config = default_config()
    config.checkpoint.every = 0
    for use in (build_detector, lambda config: train(config, tmp_path / "run")):
        with pytest.raises(UserError, match=r"config.checkpoint.every=0: give a whole number"):
            use(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("optimizer.lr", "optimizer.learning_rate"),
        ("lr", "optimizer.learning_rate"),
        ("learning_rate", "optimizer.learning_rate"),
        ("optimizer.wd", "optimizer.weight_decay"),
        ("evaluation.bs", "evaluation.batch_size"),
        ("data.batch_size", "batch_size"),
        ("rpn.loss.balanc", "rpn.loss.balance"),
        ("mask.size", "mask.pooling.size"),
        ("stepz", "steps"),
        ("zzzzzz", None),
    ],
)
def test_the_nearest_field(name, meant):
    assert nearest_field(name) == meant


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.optimizer.lr=1", "did you mean --config.optimizer.learning_rate=…?"),
        ("--config.loss.balance=1", "did you mean --config.rpn.loss.balance=…?"),
        ("--config.zzzzzz=1", "rpn-jax info --fields lists them all"),
        ("--config.version=1", "is that of the fields, and no setting"),
        ("--config.detector=rpn", "give it to default_config()"),
    ],
)
def test_a_field_that_there_is_not(override, message):
    with pytest.raises(UserError, match=r"^--config.[^\n]*$") as caught:
        apply_overrides(default_config(), [override])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "def get_config():\n  return {'steps': 5}\n",
            "get_config() returns dict; it is to return",
        ),
        (
            "def get_config():\n  pass\n",
            "get_config() returns None; it is to return default_config()",
        ),
        ("steps = 5\n", "defines no get_config()"),
        (
            START + "  c.optimizer.lr = 1\n  return c\n",
            "mine.py, line 4: c.optimizer.lr = 1: there is no such field; did you mean "
            "config.optimizer.learning_rate?",
        ),
        (START + "  c.steps = c.stepz\n  return c\n", "did you mean config.steps?"),
        (
            START + "  c.steps = 'x'\n  return c\n",
            "line 4: c.steps = 'x': give a value of type int",
        ),
        (START + "  c.steps = (1\n", "mine.py, line 4: SyntaxError: '(' was never closed"),
        (START + "  c.steps = 1 / 0\n  return c\n", "mine.py, line 4: ZeroDivisionError"),
        (START + "  c.unlock()\n  c.lr = 1\n  return c\n", "config.lr: there is no such field"),
        (
            "from ml_collections import ConfigDict\ndef get_config():\n  return ConfigDict()\n",
            "config.version: is missing; begin with default_config()",
        ),
        (START + "  c.steps = 0\n  return c\n", "config.steps=0: give a whole number from 1 up"),
    ],
)
def test_a_config_file_that_is_wrong_is_one_line(text, message, tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(text)
    assert main(["prepare", f"--config={file}"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


def test_a_run_s_config_is_a_config(tmp_path):
    from rpn_jax.runs.config_files import to_json

    file = tmp_path / "config.json"
    file.write_text(to_json(apply_overrides(default_config(), ["--config.steps=7"])))
    assert load_config(str(file), ["--config.seed=2"]).steps == 7


def test_info_lists_the_fields(capsys):
    assert main(["info", "--fields"]) == 0
    listed = re.findall(r"^--config\.([\w.]+)=", capsys.readouterr().out, re.MULTILINE)
    assert listed == list(FIELDS)
    assert main(["info", "--fields=rpn.targets"]) == 0
    assert capsys.readouterr().out.startswith("--config.rpn.targets.fg_iou_threshold=0.7\n    from")
    assert main(["info", "--fields=rnp"]) == 1
    assert "error: --fields=rnp: give one of" in capsys.readouterr().err
    assert list_fields("--config.steps").startswith("--config.steps=80000\n")
    assert list_fields("rpn.loss.balance").splitlines() == [
        "--config.rpn.loss.balance=10.0",
        "    lambda of equation 1 (float: a number from 0 up; Faster R-CNN, section 3.1.2)",
    ]


def test_every_group_has_a_line_and_the_help_of_train_has_those_at_the_top(capsys):
    groups = {name[:dot] for name in FIELDS for dot, sign in enumerate(name) if sign == "."}
    assert GROUPS.keys() == {"", *groups}
    assert [field.name for group in GROUPS for field in entries(group)] == sorted(
        FIELDS, key=lambda name: list(GROUPS).index(name.rpartition(".")[0])
    )
    assert detectors_with("box.pooling") == ["faster_rcnn", "mask_rcnn", "fast_rcnn"]
    assert detectors_with("data") == list(STAGES)
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert groups_help() in capsys.readouterr().out
