import json

import pytest

import rpn_jax
from rpn_jax.errors import UserError
from rpn_jax.runs.config import default_config, flatten, of_kind
from rpn_jax.runs.config_files import apply_overrides, differences, from_json, load_config, to_json


@pytest.mark.parametrize(
    ("override", "field", "value"),
    [
        ("--config.rpn.loss.balance=1", "rpn.loss.balance", 1.0),
        ("--config.rpn.anchors.sizes=(16,32.5)", "rpn.anchors.sizes", [16, 32.5]),
        ("--config.rpn.anchors.sizes=((16,),(32.5,))", "rpn.anchors.sizes", [[16], [32.5]]),
        ("--config.rpn.targets.drop_straddling=false", "rpn.targets.drop_straddling", False),
        ("--config.data.max_objects=8", "data.max_objects", 8),
        ("--config.data.source=/a b/c=d", "data.source", "/a b/c=d"),
        ("--config.optimizer.learning_rate=1e-2", "optimizer.learning_rate", 0.01),
    ],
)
def test_an_override_takes_the_type_of_its_field(override, field, value):
    flat = flatten(apply_overrides(default_config(), [override]))
    assert flat[field] == value
    assert {k: v for k, v in flat.items() if k != field} == {
        k: v for k, v in flatten(default_config()).items() if k != field
    }


def test_a_config_of_another_kind_has_options_of_its_own():
    config = apply_overrides(default_config("faster_rcnn"), ["--config.data.options.seed=1"])
    other = apply_overrides(of_kind(config, "rpn"), ["--config.data.options.seed=7"])
    assert (other.data.options.seed, config.data.options.seed) == (7, 1)


def test_none_takes_a_value_back():
    config = default_config()
    set_and_back = [
        ("model.output_stage", "c3"), ("data.max_objects", "8"), ("model.dilate_c5", "true")
    ]  # fmt: skip
    for field, value in set_and_back:
        apply_overrides(config, [f"--config.{field}={value}"])
        assert flatten(config)[field] is not None
        apply_overrides(config, [f"--config.{field}=None"])
    assert differences(config, default_config()) == []
    with pytest.raises(UserError, match="steps=None: give a value of type int"):
        apply_overrides(config, ["--config.steps=None"])


def test_another_dataset_has_no_options_of_the_one_before():
    options = "--config.data.options.seed=1", "--config.data.options.image_size=64"
    config = apply_overrides(default_config(), ["--config.data.dataset=shapes", *options])
    assert config.data.options.to_dict() == {"seed": 1, "image_size": 64}
    apply_overrides(config, ["--config.data.dataset=shapes", "--config.data.options.seed=2"])
    assert config.data.options.to_dict() == {"seed": 2, "image_size": 64}
    apply_overrides(config, ["--config.data.options.first_pixel=0", "--config.data.dataset=yolo"])
    assert config.data.options.to_dict() == {"first_pixel": 0}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.rpn.loss.balanc=1", "did you mean --config.rpn.loss.balance=…"),
        (
            "--config.rpn.loss=1",
            "loss: is a group of fields, such as --config.rpn.loss.balance; give",
        ),
        ("--workdri=x", "there is no such field"),
        ("--config=mine.py", "--config: a trained network has its config; leave this out"),
        ("--config.steps", "write --config.steps=VALUE"),
        ("--config.steps=abc", "give a value of type int, such as 80000"),
        ("--config.steps=1.5", "give a value of type int"),
        ("--config.optimizer.learning_rate=nan", "learning_rate=nan: give a number from 0 up"),
        ("--config.optimizer.learning_rate=-inf", "learning_rate=-inf: give a number from 0 up"),
        ("--config.rpn.anchors.sizes=16", "give a value of type tuple"),
        ("--config.rpn.targets.drop_straddling=0", "give a value of type bool"),
    ],
)
def test_a_wrong_override_is_one_clear_line(override, message):
    with pytest.raises(UserError, match=r"^[^\n]*$") as caught:
        apply_overrides(default_config(), [override])
    assert message in str(caught.value)


def test_a_variant_imports_its_parent_from_the_same_folder(tmp_path):
    (tmp_path / "parent_config.py").write_text(
        "from rpn_jax.runs.config import default_config\n"
        "def get_config():\n  c = default_config()\n  c.steps = 5\n  return c\n"
    )
    (tmp_path / "variant.py").write_text(
        "import parent_config\n"
        "def get_config():\n  c = parent_config.get_config()\n  c.batch_size = 3\n  return c\n"
    )
    config = load_config(str(tmp_path / "variant.py"), ["--config.seed=9"])
    assert (config.steps, config.batch_size, config.seed) == (5, 3, 9)
    with pytest.raises(AttributeError):
        config.stepz = 1


def test_a_shipped_config_is_found_by_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shapes").mkdir()
    assert differences(load_config("shapes"), rpn_jax.configs.shapes()) == []
    with pytest.raises(UserError, match="--config=shape: no such file; .* bccd, .*shapes, .*voc07"):
        load_config("shape")
    with pytest.raises(AttributeError, match="no config 'shape'; there are bccd"):
        rpn_jax.configs.shape  # noqa: B018


def test_a_config_of_ones_own_starts_from_a_shipped_one(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from rpn_jax.configs import bccd\n"
        "def get_config():\n  c = bccd()\n  assert c == bccd.get_config()\n"
        "  c.steps = 7\n  return c\n"
    )
    expected = load_config("bccd", ["--config.steps=7"])
    assert differences(load_config(str(tmp_path / "mine.py")), expected) == []


@pytest.mark.parametrize("name", ["shapes", "shapes_faster_rcnn", "voc07_faster_rcnn_vgg16"])
def test_a_shipped_config_becomes_another_kind_of_detector(name, tmp_path):
    (tmp_path / "mine.py").write_text(
        f'from rpn_jax.configs import {name}\ndef get_config():\n  return {name}("fast_rcnn")\n'
    )
    config = load_config(str(tmp_path / "mine.py"))
    assert config.detector == "fast_rcnn"
    assert "rpn" not in config
    assert config.data.proposals.train is None
    parent = getattr(rpn_jax.configs, name)
    base = parent("faster_rcnn") if name == "shapes" else parent()
    for group in ("box", "model", "optimizer"):
        assert config[group].to_dict() == base[group].to_dict()
    (tmp_path / "none.py").write_text((tmp_path / "mine.py").read_text().replace("fast_", "last_"))
    with pytest.raises(UserError, match="none.py: config.detector: 'last_rcnn' is unknown; use"):
        load_config(str(tmp_path / "none.py"))


def test_a_file_of_weights_is_no_config(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(bytes(9))
    with pytest.raises(UserError, match=r"is no \.py file; .* as --weights, or to train as --conf"):
        load_config(str(tmp_path / "w.safetensors"))


def test_a_config_that_sets_an_unknown_field_is_refused(tmp_path):
    (tmp_path / "bad.py").write_text(
        "from rpn_jax.runs.config import default_config\n"
        "def get_config():\n  c = default_config()\n  c.stepz = 5\n  return c\n"
    )
    with pytest.raises(UserError, match="stepz"):
        load_config(str(tmp_path / "bad.py"))
    with pytest.raises(UserError, match="no such file"):
        load_config(str(tmp_path / "absent.py"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("stored", "stored"),
        ("('train',)", ("train",)),
        ("{'train': ('a.json', 'images')}", {"train": ("a.json", "images")}),
    ],
)
def test_options_of_the_dataset_are_flags(text, value):
    config = apply_overrides(default_config(), [f"--config.data.options.splits={text}"])
    assert config.data.options.to_dict() == {"splits": value}
    again = from_json(to_json(config))
    assert differences(config, again) == []
    assert default_config().data.options.to_dict() == {}


def test_json_keeps_every_field_and_its_type():
    overrides = "--config.data.source=x", "--config.rpn.anchors.sizes=((8.0,),(16.0,))"
    config = apply_overrides(default_config(), overrides)
    config.data.options = {"splits": {"train": ["a.json", "images"]}, "seed": 3}
    again = from_json(to_json(config))
    assert differences(config, again) == []
    assert again.rpn.anchors.sizes == ((8.0,), (16.0,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": "many"}, "steps='many': give a whole number from 1 up"),
        ({"optimizer": {"lr": 1}}, r"optimizer.lr: there is no such field; .*learning_rate"),
        ({"optimizer": 3}, "optimizer: is a group of fields, such as config.optimizer.name; give"),
        ({"data": [1]}, "data.options: is missing"),
        ({"detector": ["rpn"]}, r"detector=\['rpn'\]: give rpn or faster_rcnn"),
        ({"version": "x"}, "version is x, and this"),
        ("[1]", "holds no fields"),
        ("[" * 100_000, "maximum recursion depth"),
    ],
)
def test_a_damaged_config_is_told_in_our_words(changes, message):
    fields = json.loads(to_json(default_config()))
    text = changes if isinstance(changes, str) else json.dumps(fields | changes)
    with pytest.raises(UserError, match=f"^run/config.json: {message}.*; the config is damaged"):
        from_json(text, "run/config.json")


def test_a_config_saved_before_a_field_was_there_has_its_default():
    fields = json.loads(to_json(default_config()))
    for name in ("accumulation", "ema_decay", "deterministic"):
        del fields[name]
    del fields["model"]["remat"]
    del fields["optimizer"]["reference_batch_size"], fields["optimizer"]["batch_size_rule"]
    assert differences(default_config(), from_json(json.dumps(fields))) == []
    changed = apply_overrides(default_config(), ["--config.ema_decay=0.5"])
    assert differences(changed, from_json(json.dumps(fields))) == ["ema_decay: 0.5 here, 0.0 there"]


def test_a_run_finds_its_source_from_every_folder(tmp_path, monkeypatch):
    from rpn_jax.runs.workdir import claim_workdir, load_workdir_config

    config = apply_overrides(default_config(), ["--config.data.source=photos"])
    monkeypatch.chdir(tmp_path)
    with claim_workdir(tmp_path / "run", config):
        pass
    with claim_workdir(tmp_path / "run", config):  # as before, from the same folder
        pass
    monkeypatch.chdir("/")
    assert load_workdir_config(tmp_path / "run").data.source == str(tmp_path / "photos")


def test_differences_name_the_fields():
    other = apply_overrides(default_config(), ["--config.seed=3", "--config.rpn.loss.balance=1"])
    assert differences(other, default_config()) == [
        "rpn.loss.balance: 1.0 here, 10.0 there",
        "seed: 3 here, 0 there",
    ]
