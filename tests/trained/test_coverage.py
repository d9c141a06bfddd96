"""What training would do with the anchors, held against slow loops over the same annotations."""

import numpy as np
import pytest
import references

from rpn_jax.data.datasets import prepare_dataset
from rpn_jax.runs.config import default_config
from rpn_jax.runs.config_files import apply_overrides
from rpn_jax.trained.coverage import (
    describe_anchors,
    draw_position,
    measure_coverage,
    read_images,
    with_suggested_sizes,
)
from rpn_jax.training.build import build_network
from rpn_jax.training.evaluate import buckets
from rpn_jax.training.splits import open_split
from rpn_jax.training.stages import proposal_stage

FIELDS = (
    "--config.data.dataset=voc_folder",
    "--config.data.shorter_side=24",
    "--config.data.longer_side=30",
    "--config.model.backbone=resnet18",
    "--config.model.output_stage=c2",
    "--config.rpn.anchors.sizes=(8.0,16.0)",
    "--config.rpn.targets.fg_iou_threshold=0.6",
)


@pytest.fixture
def config(voc, tmp_path):
    prepare_dataset("voc_folder", data_dir=tmp_path, source=voc.root)
    where = (f"--config.data.source={voc.root}", f"--config.data.data_dir={tmp_path}")
    return apply_overrides(default_config(), [*FIELDS, *where])


def annotations(config):
    dataset, network = open_split(config, "train"), build_network(config)
    return dataset, network, read_images(config, dataset, buckets(config, dataset))


def test_boxes_are_resized_as_the_images_are(config):
    dataset, _, images = annotations(config)
    # a is 30 x 40 and would be 24 x 32, if its longer side might be: it is 22.5 x 30, so 23 x 30.
    assert images[0].image_hw.tolist() == [23, 30]
    assert images[0].canvas_hw == (32, 32)
    np.testing.assert_allclose(
        images[0].boxes, dataset[0].boxes * [[0.75, 23 / 30, 0.75, 23 / 30]], rtol=1e-6
    )
    assert images[0].ignore.tolist() == [False, True]
    assert len(images[2].boxes) == 0


@pytest.mark.parametrize("drop_straddling", [True, False])
def test_coverage_is_that_of_the_anchors_that_training_uses(config, drop_straddling):
    config.rpn.targets.drop_straddling = drop_straddling
    _, network, images = annotations(config)
    coverage = measure_coverage(config, network, images)
    best_iou, positives, image_of = [], [], []
    for i, image in enumerate(images):
        (anchors,) = (
            np.asarray(a) for a in proposal_stage(config).anchors(network, *image.canvas_hw)
        )
        height, width = image.image_hw
        centre = (anchors[:, :2] + anchors[:, 2:]) / 2
        takes_part = (centre <= [width, height]).all(axis=1)
        if drop_straddling:
            takes_part &= (anchors[:, :2] >= 0).all(axis=1)
            takes_part &= (anchors[:, 2:] <= [width, height]).all(axis=1)
        objects, regions = image.boxes[~image.ignore], image.boxes[image.ignore]
        labels, index, _ = references.match(
            anchors, objects, regions, fg=0.6, takes_part=takes_part
        )
        overlaps = references.pairwise_iou(anchors[takes_part], objects)
        best_iou += overlaps.max(axis=0).tolist()
        positives += [int(((labels == 1) & (index == g)).sum()) for g in range(len(objects))]
        image_of += [i] * len(objects)
    np.testing.assert_allclose(coverage.best_iou, best_iou, rtol=1e-5)
    assert coverage.positives.tolist() == positives
    assert coverage.image.tolist() == image_of == [0, 1, 3, 3, 3, 4]
    assert (coverage.best_iou <= coverage.centred_iou + 1e-6).all()


def test_suggested_sizes_leave_the_config_alone(config):
    _, network, images = annotations(config)
    coverage = measure_coverage(config, network, images)
    other = with_suggested_sizes(config, coverage)
    assert config.rpn.anchors.sizes == (8.0, 16.0)
    assert len(other.rpn.anchors.sizes) == 2
    other_coverage = measure_coverage(other, network, images)
    assert other_coverage.centred_iou.mean() > coverage.centred_iou.mean()
    config.rpn.anchors.sizes = other.rpn.anchors.sizes
    assert other == config


def test_the_position_drawn_is_in_the_middle_of_the_image(config):
    dataset, network, images = annotations(config)
    picture = draw_position(config, network, dataset, images)
    # The title is above the image, the legend below it; 23 x 30 is enlarged to 920 x 1200.
    assert picture.shape[1] == 1200
    assert picture.shape[0] > 920


def test_levels_keep_their_number_of_sizes(config):
    _, network, images = annotations(config)
    coverage = measure_coverage(config, network, images)
    config.rpn.anchors.sizes = ((4.0, 6.0), (8.0, 12.0))
    sizes = with_suggested_sizes(config, coverage).rpn.anchors.sizes
    assert [len(level) for level in sizes] == [2, 2]
    assert sorted({*sizes[0], *sizes[1]}) == list(dict.fromkeys(sizes[0] + sizes[1]))
    alone = coverage._replace(shapes=np.float32([[12.0, 12.0]]))
    assert with_suggested_sizes(config, alone).rpn.anchors.sizes == ((12.0, 12.0), (12.0, 12.0))


def test_a_pyramid(config):
    config.model.output_stage = None
    config.model.neck = "fpn"
    config.rpn.anchors.sizes = ((4.0,), (8.0,), (12.0,), (16.0,), (24.0,))
    dataset, network, images = annotations(config)
    coverage = measure_coverage(config, network, images)
    assert len(coverage.best_iou) == 6
    assert (coverage.best_iou <= coverage.centred_iou + 1e-6).all()
    text = describe_anchors(config, network, buckets(config, dataset))
    assert "3 anchors at each position: sizes 4 | 8 | 12 | 16 | 24; aspect ratios" in text
    # 32 x 32 pixels at strides 4 to 64.
    rows = [line.split() for line in text.splitlines() if line.startswith("32 x 32")]
    assert [row[4:9] for row in rows] == [
        ["4", "8", "x", "8", "192"],
        ["8", "4", "x", "4", "48"],
        ["16", "2", "x", "2", "12"],
        ["32", "1", "x", "1", "3"],
        ["64", "1", "x", "1", "3"],
    ]
    assert draw_position(config, network, dataset, images).shape[1] == 1200
