"""The page of a config's first training steps: what it shows is what a training would see."""

import json

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.small import BOX, FIELDS, of_fast_rcnn, small_config

from rpn_jax.__main__ import main
from rpn_jax.data.datasets import open_dataset, prepare_dataset
from rpn_jax.detectors.rpn import Look
from rpn_jax.errors import UserError
from rpn_jax.ops.matching import Label
from rpn_jax.reports.preview import seen_images, write_preview
from rpn_jax.runs.config import default_config, random_key
from rpn_jax.runs.config_files import apply_overrides
from rpn_jax.training.build import build_detector
from rpn_jax.training.splits import device_batch, open_split
from rpn_jax.training.step import image_keys

OPTIONS = {"num_train": 6, "num_test": 1, "image_size": 48}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The flags of a few small images of shapes, which have masks."""
    data_dir = tmp_path_factory.mktemp("prepared")
    prepare_dataset("shapes", data_dir=data_dir, **OPTIONS)
    return (
        "--config.data.dataset=shapes",
        f"--config.data.data_dir={data_dir}",
        *(f"--config.data.options.{name}={value}" for name, value in OPTIONS.items()),
        "--config.batch_size=4",
    )


@pytest.fixture(scope="module")
def page(data, tmp_path_factory):
    """The page of six images, which are one and a half steps."""
    out = tmp_path_factory.mktemp("preview")
    return out, write_preview(small_config(*data), out, images=6)


def test_the_same_config_gives_the_same_page(page, data, tmp_path):
    out, text = page
    again = write_preview(small_config(*data), tmp_path, images=6)
    assert again == text.replace(str(out), str(tmp_path))
    files = {path.relative_to(out) for path in out.rglob("*") if path.is_file()}
    assert len(files) == 2 + 2 * 6
    assert all((out / file).read_bytes() == (tmp_path / file).read_bytes() for file in files)


def test_each_image_is_shown_with_its_objects_and_its_anchors(page, data):
    out, text = page
    markdown = (out / "preview.md").read_text()
    captions = [line for line in markdown.splitlines() if line.startswith("step ")]
    assert [line.split(":")[0] for line in captions] == [
        *(f"step 1, image {i}" for i in (1, 2, 3, 4)),
        *(f"step 2, image {i}" for i in (1, 2)),
    ]
    assert all("48 x 48 pixels, shown in 48 x 48" in line for line in captions)
    assert {"mirrored" in line for line in captions} == {True, False}
    html = (out / "preview.html").read_text()
    assert html.count("data:image/jpeg") == 12
    assert text.splitlines()[1].split() == ["images", "6"]
    assert text.splitlines()[-1] == str(out / "preview.html")


def test_masks_are_shown_where_the_dataset_has_them(page, data):
    out, _ = page
    one = next(seen_images(*inputs(small_config(*data)), 1))
    slot = int(np.flatnonzero(one.is_object)[0])
    mask = one.batch.gt_masks[one.place, slot]
    x1, y1, x2, y2 = one.batch.gt_boxes[one.place, slot]
    shown = cv2.imread(str(out / "pictures" / "000_objects.jpg"))[..., ::-1].astype(int)
    rows, columns = np.nonzero(cv2.erode(mask, np.ones((9, 9))) > 250)
    assert len(rows)
    scale = shown.shape[1] / 48
    y = (y1 + (rows[0] + 0.5) / len(mask) * (y2 - y1)) * scale
    x = (x1 + (columns[0] + 0.5) / len(mask) * (x2 - x1)) * scale
    image = cv2.resize(
        one.batch.images[one.place], shown.shape[1::-1], interpolation=cv2.INTER_CUBIC
    )
    assert np.abs(shown[int(y), int(x)] - image[int(y), int(x)]).max() > 8  # it is tinted


def inputs(config):
    return config, build_detector(config), open_split(config, "train")


def test_the_anchors_are_those_that_the_training_samples(data):
    config, detector, dataset = inputs(small_config(*data))
    seen = list(seen_images(config, detector, dataset, 4, step=3))
    batch = device_batch(seen[0].batch)
    anchors = detector.anchors(*batch.images.shape[1:3])
    logits = tuple(jnp.zeros((4, len(level))) for level in anchors)
    look = Look(logits, tuple(jnp.zeros((*x.shape, 4)) for x in logits), anchors, {})
    keys = image_keys(random_key(config), 2, 0, 4)  # two steps are done before the third
    losses = jax.jit(lambda keys: detector.losses_of(look, keys, batch))(keys)
    for one in seen:
        np.testing.assert_array_equal(one.labels, losses.labels[one.place])
        assert (one.objects >= 0).sum() == losses.parts["positives"][one.place]
        assert (one.labels == Label.POSITIVE).any()


def test_what_a_crop_removes_is_counted(data, tmp_path):
    config = small_config(
        *data, "--config.data.jitter.scales=(6.0,6.0)", "--config.data.jitter.canvas=(48,48)"
    )
    text = write_preview(config, tmp_path, images=4)
    removed = int(next(x for x in text.splitlines() if x.startswith("boxes that")).split()[-1])
    objects = int(next(x for x in text.splitlines() if x.startswith("objects  ")).split()[-1])
    assert removed > 0
    dataset = open_split(config, "train")
    assert removed + objects <= dataset.num_objects.sum()


def test_a_fast_rcnn_is_shown_with_its_proposals(data, tmp_path):
    data_dir = next(flag for flag in data if "data_dir" in flag).partition("=")[2]
    dataset = open_dataset("shapes", "train", data_dir=data_dir, **OPTIONS)
    results = [
        {"image_id": record.image_id, "category_id": 1, "bbox": [2, 3, 20, 20], "score": 0.5}
        for record in map(dataset.__getitem__, range(len(dataset)))
    ]
    (tmp_path / "found.json").write_text(json.dumps(results))
    fields = [flag for flag in of_fast_rcnn((*FIELDS, *BOX)) if "class_names" not in flag]
    config = apply_overrides(
        default_config("fast_rcnn"),
        [*fields, *data, f"--config.data.proposals.train={tmp_path / 'found.json'}"],
    )
    text = write_preview(config, tmp_path / "out", images=1)
    assert "anchors" not in text
    assert "1 given proposals" in (tmp_path / "out" / "preview.md").read_text()
    assert (tmp_path / "out" / "pictures" / "000_proposals.jpg").is_file()


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--images=0"], "--images=0: give a number from 1 up"),
        (["--step=0"], "--step=0: give a step from 1 to config.steps, which is 800"),
        (["--step=801"], "--step=801: give a step from 1 to config.steps"),
        (["--config.data.options.num_train=7"], "with these options is not prepared there"),
    ],
)
def test_what_cannot_be_shown_is_one_line(data, tmp_path, capsys, flags, line):
    out = tmp_path / "out"
    assert main(["preview", "--config=shapes", f"--out={out}", *data[:2], *flags]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert line in said
    assert not out.exists()


def test_a_preview_replaces_no_file(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        write_preview(small_config(*data), tmp_path / "file")
