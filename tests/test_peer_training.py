"""What `scripts/peer_training_export.py` writes for torchvision is what is prepared here.

It is prepared again, as a folder in COCO's layout, and the two are compared. torch is not needed.
"""

import json
import pathlib
import re

import numpy as np
import peer_training_export
import pytest
from folders import turned_image

import rpn_jax
from rpn_jax.data.datasets import Dataset, open_dataset, prepare_dataset
from rpn_jax.data.images import decode_image
from rpn_jax.data.masks import Masks
from rpn_jax.errors import UserError
from rpn_jax.runs.config_files import load_config
from rpn_jax.training.splits import open_split

SCRIPTS = pathlib.Path(__file__).resolve().parents[1] / "scripts"
# The configs whose headers have figures of torchvision's.
COMPARED = (
    "shapes_faster_rcnn",
    "bccd_faster_rcnn",
    "nuclei_mask_rcnn",
    "voc_folder_faster_rcnn_vgg16",
)


def export(name: str, folder: pathlib.Path, **data) -> pathlib.Path:
    """Prepares the data of a config with some fields of its own, and exports them."""
    flags = [f"--config.data.{field}={value}" for field, value in data.items()]
    flags.append(f"--config.data.data_dir={folder / 'prepared'}")
    config = load_config(name, flags)
    rpn_jax.prepare(config)
    out = folder / "exported"
    peer_training_export.main([f"--config={name}", f"--out={out}", *flags])
    data_dir = folder / "again"
    prepare_dataset("coco_json", source=str(out), data_dir=data_dir)
    for split in (config.data.train_split, config.data.eval_split):
        again = open_dataset("coco_json", split, source=str(out), data_dir=data_dir)
        assert_same(again, open_split(config, split), masks="mask" in config)
    return out


def assert_same(again: Dataset, prepared: Dataset, masks: bool) -> None:
    assert len(again) == len(prepared) > 0
    assert again.class_names == prepared.class_names
    assert again.has_masks == masks
    for ours, theirs in zip(prepared, again, strict=True):
        assert theirs.filename.endswith(f"{ours.image_id:06}.png")
        pixels = decode_image(ours.image_bytes, ours.filename, ours.turn)
        np.testing.assert_array_equal(decode_image(theirs.image_bytes, theirs.filename), pixels)
        assert pixels.shape == (theirs.height, theirs.width, 3)
        np.testing.assert_allclose(theirs.boxes, ours.boxes, rtol=0, atol=1e-4)
        np.testing.assert_array_equal(theirs.labels, ours.labels)
        np.testing.assert_array_equal(theirs.ignore, ours.ignore)
        if masks:
            of_ours, of_theirs = (
                np.asarray(Masks(record.masks, ours.height, ours.width))
                for record in (ours, theirs)
            )
            assert of_ours.any((1, 2)).all()
            np.testing.assert_array_equal(of_theirs, of_ours)


def test_shapes_with_masks(tmp_path):
    options = {"image_size": 64, "num_train": 4, "num_test": 2}
    fields = {f"options.{name}": value for name, value in options.items()}
    out = export("shapes_mask_rcnn", tmp_path, **fields)
    settings = json.loads((out / "settings.json").read_text())
    assert settings["config"] == "shapes_mask_rcnn"
    assert settings["rpn.anchors.sizes"] == [[20.0, 30.0, 45.0, 67.0, 90.0]]
    assert settings["mask.pooling.size"] == 10
    assert settings["steps"] == 1400


def test_photographs_with_difficult_objects_and_an_orientation(voc, tmp_path):
    rng = np.random.default_rng(0)
    stored = rng.integers(0, 256, (30, 40, 3)).astype(np.uint8)
    voc.image("b").write_bytes(turned_image(stored, 6))  # shown as 40 rows of 30 pixels
    out = export("bccd_faster_rcnn", tmp_path, source=voc.root)
    content = json.loads((out / "annotations/instances_train.json").read_text())
    assert [(image["width"], image["height"]) for image in content["images"]][1] == (30, 40)
    assert sum(each["iscrowd"] for each in content["annotations"]) == 1
    assert not any("segmentation" in each for each in content["annotations"])
    boxes = [each["bbox"] for each in content["annotations"] if each["image_id"] == 0]
    # VOC's 1, 1, 10, 20 and 11, 5, 40, 30 count from 1 and include the last pixel.
    np.testing.assert_allclose(boxes, [[0, 0, 10, 20], [10, 4, 30, 26]])


def test_an_object_without_a_mask_is_refused_where_masks_are_trained(coco, tmp_path):
    whole = [[2, 3, 12.5, 3, 12.5, 23, 2, 23]]
    coco.content["annotations"][0]["segmentation"] = whole
    coco.write()
    fields = {"source": coco.root, "train_split": "val"}
    with pytest.raises(SystemExit, match=r"q.jpg: has an object without a mask, which .*"):
        export("nuclei_mask_rcnn", tmp_path, **fields)
    assert not (tmp_path / "exported/settings.json").exists()


@pytest.mark.parametrize("name", COMPARED)
def test_the_settings_that_training_reads_are_exported(name):
    settings = peer_training_export.settings(load_config(name))
    read = re.findall(r'settings\["([\w.]+)"\]', (SCRIPTS / "peer_training.py").read_text())
    assert "model.backbone" in read
    of_masks = {each for each in read if each.startswith("mask.")}
    assert settings.keys() >= set(read) - {"config"} - (set() if "mask" in name else of_masks)
    # Those of the pooling are read by one function for both heads.
    assert {each for each in settings.keys() - set(read) if ".pooling." not in each} == set()


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("shapes", "detector=rpn"),
        ("coco_faster_rcnn_resnet50_fpn", "data.shorter_sides"),
        ("voc07_faster_rcnn_vgg16", "box.dropout=0.5"),
    ],
)
def test_a_network_that_torchvision_does_not_have_is_refused(name, field):
    with pytest.raises(UserError, match=f"^config.{field}.*; take another config$"):
        peer_training_export.settings(load_config(name))


def test_an_existing_folder_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="exists; give a new folder"):
        peer_training_export.main(["--config=shapes_faster_rcnn", f"--out={tmp_path}"])
