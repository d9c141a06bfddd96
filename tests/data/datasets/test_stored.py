"""Prepared datasets that were damaged, or that somebody with bad intentions made."""

import json
import os
import pathlib
import sys

import pytest
from damage import DAMAGES, flip_a_byte

from rpn_jax.data.datasets import open_dataset, prepare_dataset
from rpn_jax.errors import UserError

EVIL = "payload_of_a_stranger.Text"


@pytest.fixture
def prepared(voc, tmp_path):
    """The folder of a prepared dataset, and a function that opens it."""
    place = dict(data_dir=tmp_path / "prepared", source=voc.root)
    directory = pathlib.Path(prepare_dataset("voc_folder", **place).directory)
    return directory, lambda: open_dataset("voc_folder", "train", **place)


@pytest.fixture
def payload(tmp_path, monkeypatch):
    """A module that leaves a file when it is imported."""
    mark = tmp_path / "its code ran"
    (tmp_path / "payload_of_a_stranger.py").write_text(f"open({str(mark)!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield mark
    assert "payload_of_a_stranger" not in sys.modules
    assert not mark.exists()


def text_feature(content):
    return content["featuresDict"]["features"]["image/filename"]


def name_in_a_feature(features, info):
    text_feature(features)["pythonClassName"] = EVIL


def name_in_proto_spelling(features, info):
    del text_feature(features)["pythonClassName"]
    text_feature(features)["python_class_name"] = EVIL


def name_of_the_old_layout(features, info):
    features.clear()
    features.update(type=EVIL, content={})


def name_in_json_within_json(features, info):
    inner = {"feature": {"type": EVIL, "content": {}}, "length": None}
    sequence = features["featuresDict"]["features"]["objects"]["featuresDict"]["features"]["label"]
    del sequence["sequence"]
    sequence["jsonFeature"] = {"json": json.dumps(inner)}


def name_in_the_info(features, info):
    info["features"] = {"pythonClassName": EVIL, "text": {}}


@pytest.mark.parametrize(
    "forge",
    [
        name_in_a_feature,
        name_in_proto_spelling,
        name_of_the_old_layout,
        name_in_json_within_json,
        name_in_the_info,
    ],
)
def test_a_class_of_a_stranger_is_not_imported(prepared, payload, forge):
    directory, open_it = prepared
    files = [directory / name for name in ("features.json", "dataset_info.json")]
    contents = [json.loads(file.read_bytes()) for file in files]
    forge(*contents)
    for file, content in zip(files, contents, strict=True):
        file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"json: names 'payload_of_a_stranger.Text', which is no"):
        open_it()


def test_class_names_are_not_read_from_another_file(prepared, tmp_path):
    directory, open_it = prepared
    (tmp_path / "secret").write_text("the secret\n")
    content = json.loads((directory / "features.json").read_bytes())
    label = content["featuresDict"]["features"]["objects"]["featuresDict"]["features"]["label"]
    label["sequence"]["feature"].pop("classLabel")
    names = json.dumps({"names_file": str(tmp_path / "secret")})
    label["sequence"]["feature"]["jsonFeature"] = {"json": names}
    (directory / "features.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"features\.json: names '.*secret', which is no feature"):
        open_it()


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "name",
    ["features.json", "metadata.json", "voc_folder-train.array_record-00000-of-00001"],
)
def test_a_damaged_file_is_named_with_the_remedy(prepared, name, damage):
    directory, open_it = prepared
    DAMAGES[damage](directory / name)
    with pytest.raises(UserError, match=rf"{name}: the prepared dataset is damaged .*; to mend it"):
        open_it()


@pytest.mark.parametrize("name", ["metadata.json", "objects-label.labels.txt"])
def test_a_pipe_is_not_waited_for(prepared, name):
    directory, open_it = prepared
    (directory / name).unlink()
    os.mkfifo(directory / name)
    with pytest.raises(UserError, match=rf"{name}: the prepared dataset is damaged"):
        open_it()


def test_a_damaged_record_is_named_when_it_is_read(prepared):
    directory, open_it = prepared
    flip_a_byte(directory / "voc_folder-train.array_record-00000-of-00001")
    dataset = open_it()
    with pytest.raises(UserError, match=r"train\.array_record-0.*is damaged \(Corrupted"):
        dataset[0]
