"""A model file gives back what was written, and says in one line what is wrong with it."""

import json
import pathlib

import numpy as np
import pytest
import safetensors.numpy

from rpn_jax.errors import UserError
from rpn_jax.runs.config import default_config
from rpn_jax.runs.config_files import apply_overrides, differences, to_json
from rpn_jax.weights.model_file import check_fits, is_model_file, read_model, write_model


def some_config():
    config = apply_overrides(
        default_config(),
        ["--config.rpn.anchors.sizes=((8.0,),(16.0,))", "--config.model.backbone=resnet18"],
    )
    config.data.options = {"splits": {"train": ["a.json", "images"]}}
    return config


def some_collections():
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
    return {
        "params": {
            "backbone": {"c1": {"conv1": {"kernel": kernel}}},
            "rpn": {"conv": {"kernel": kernel.T, "bias": np.float64([1, 2])}},
        },
        "batch_stats": {"backbone": {"c1": {"norm": {"var": np.float32(3.0)}}}},
    }


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "new" / "model.safetensors"
    write_model(file, some_config(), some_collections(), source="a test", step=7)
    return file


def test_what_is_written_is_read(path):
    assert is_model_file(path)
    model = read_model(path)
    assert differences(model.config, some_config()) == []
    assert model.config.rpn.anchors.sizes == ((8.0,), (16.0,))
    assert (model.source, model.step) == ("a test", 7)
    head = model.collections["params"]["rpn"]["conv"]
    np.testing.assert_array_equal(head["kernel"], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(head["bias"], [1, 2])
    assert head["bias"].dtype == np.float32
    assert model.collections["batch_stats"]["backbone"]["c1"]["norm"]["var"].shape == ()
    check_fits(path, model.collections, some_collections())
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_same_content_has_the_same_bytes(path):
    content = path.read_bytes()
    for _ in range(5):
        write_model(path, some_config(), some_collections(), source="a test", step=7)
        assert path.read_bytes() == content


def test_the_names_are_those_of_the_leaves(path):
    assert sorted(safetensors.numpy.load_file(path)) == [
        "batch_stats/backbone/c1/norm/var",
        "params/backbone/c1/conv1/kernel",
        "params/rpn/conv/bias",
        "params/rpn/conv/kernel",
    ]


def test_a_backbone_alone_that_was_not_trained_here(tmp_path):
    path = tmp_path / "backbone.safetensors"
    backbone = {"params": {"backbone": some_collections()["params"]["backbone"]}, "batch_stats": {}}
    write_model(path, some_config(), backbone, source="elsewhere")
    model = read_model(path)
    assert model.collections.keys() == {"params"}
    assert model.collections["params"].keys() == {"backbone"}
    assert model.step is None


def refusal(function, *arguments, **keywords):
    with pytest.raises(UserError) as error:
        function(*arguments, **keywords)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_what_is_no_model_file(tmp_path):
    absent, plain = tmp_path / "absent.safetensors", tmp_path / "plain.safetensors"
    archive, text = tmp_path / "arrays.npz", tmp_path / "text.safetensors"
    safetensors.numpy.save_file({"a": np.zeros(2)}, plain)
    np.savez(archive, a=np.zeros(2))
    text.write_text("no arrays")
    for file, reason in {
        absent: "cannot be read (No such file",
        plain: "is not a model file; write one with",
        archive: "is not a model file",
        text: "is damaged or not a .safetensors file",
        tmp_path: "cannot be read (Is a directory)",
    }.items():
        assert not is_model_file(file)
        assert f"{file}: " in (message := refusal(read_model, file))
        assert reason in message


def test_a_truncated_file(path):
    content = path.read_bytes()
    for length in (0, 4, 300, len(content) - 1):
        path.write_bytes(content[:length])
        assert refusal(read_model, path).startswith(f"{path}: is damaged")


@pytest.mark.parametrize("config", ["", "{", "[]", "{}"])
def test_a_damaged_config(tmp_path, config):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"a": np.zeros(2)}, path, {"rpn_jax": "1", "config": config})
    assert refusal(read_model, path).startswith(f"{path}: its config: ")


def test_a_config_of_a_newer_version(tmp_path):
    path = tmp_path / "model.safetensors"
    fields = json.loads(to_json(some_config()))
    fields["model"]["attention"] = True
    metadata = {"rpn_jax": "99", "config": json.dumps(fields)}
    safetensors.numpy.save_file({"a": np.zeros(2)}, path, metadata)
    message = refusal(read_model, path)
    assert message.startswith(f"{path}: its config: ")
    assert "attention" in message
    assert "another version" in message


def test_another_suffix_is_not_written(tmp_path):
    path = tmp_path / "model.npz"
    message = refusal(write_model, path, some_config(), {}, source="")
    assert message.startswith(f"{path}: a model file ends in .safetensors")
    assert not path.exists()


def test_a_file_that_cannot_be_written_leaves_the_old_one(path, monkeypatch):
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "replace", full)
    message = refusal(write_model, path, some_config(), {}, source="other")
    assert message == f"{path}: cannot be written (No space left on device); give another place"
    assert path.read_bytes() == before


def test_arrays_of_another_network(path):
    collections = read_model(path).collections
    other = some_collections()
    other["params"]["rpn"]["deltas"] = {"bias": np.zeros(4)}
    other["params"]["rpn"]["conv"] = {"bias": np.zeros(5)}
    message = refusal(check_fits, path, collections, other)
    assert message.startswith(f"{path}: does not fit config.model: ")
    assert "missing: params/rpn/deltas/bias" in message
    assert "left over: params/rpn/conv/kernel" in message
    assert "of another shape: params/rpn/conv/bias (2,) instead of (5,)" in message
