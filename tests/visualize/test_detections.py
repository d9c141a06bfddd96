"""Pictures of detections, with masks and without."""

import numpy as np
import pytest

from rpn_jax.data.masks import Masks, encode
from rpn_jax.visualize.detections import class_color, draw_annotations, draw_detections

IMAGE = np.full((60, 90, 3), 100, np.uint8)
BOXES = np.float32([[10, 10, 40, 40], [50, 20, 80, 50]])
FOUND = BOXES, np.float32([0.9, 0.6]), np.array([1, 0]), ("cat", "dog")
MASK = np.zeros((60, 90), bool)
MASK[12:38, 12:38] = True


def near(image, color):
    return np.abs(image.astype(int) - color).sum(axis=-1) < 60


@pytest.fixture
def masks():
    return Masks([encode(MASK), encode(np.roll(MASK, 40, axis=1))], 60, 90)


def test_masks_are_in_the_colours_of_their_classes(masks):
    bare = draw_detections(IMAGE, *FOUND, long_side=90)
    drawn = draw_detections(IMAGE, *FOUND, masks=masks, long_side=90)
    assert drawn.shape == bare.shape
    for place, label in (((25, 25), 1), ((25, 65), 0)):
        assert (bare[place] == 100).all()
        color = np.array(class_color(label))
        inside = drawn[place].astype(int) - 100
        assert (np.sign(inside) == np.sign(color - 100)).all()
        assert (abs(inside) < abs(color - 100)).all(), "what is below is seen"


def test_the_mask_of_the_higher_score_lies_on_top(masks):
    same = Masks([masks.counts[0]] * 2, 60, 90)
    drawn = draw_detections(IMAGE, *FOUND, masks=same, long_side=90)
    distance = [
        np.abs(drawn[30, 30].astype(int) - class_color(label)).sum() for label in FOUND[2].tolist()
    ]
    assert distance[0] < distance[1]


def test_annotated_masks_are_dashed_and_boxes_where_there_is_none(masks):
    given = {"gt_boxes": BOXES, "gt_labels": FOUND[2], "gt_ignore": np.zeros(2, bool)}
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, int), FOUND[3]
    bitmap = Masks([masks.counts[0], b""], 60, 90)
    boxed = draw_detections(IMAGE, *nothing, **given, long_side=1200)
    drawn = draw_detections(IMAGE, *nothing, **given, gt_masks=bitmap, long_side=1200)
    changed = (boxed != drawn).any(axis=-1)
    assert changed[:, :600].any()
    assert not changed[:, 640:].any()
    # The mask's upper side, 12 to 38 of 90 pixels.
    line = near(drawn, class_color(1))[154:168, 160:506].any(axis=0)
    assert 0.3 < line.mean() < 0.8


def test_nothing_found_has_no_masks():
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, int), FOUND[3]
    drawn = draw_detections(IMAGE, *nothing, masks=Masks([], 60, 90), long_side=90)
    assert (drawn[:60] == IMAGE).all()


def test_the_name_of_the_only_class_hides_nothing():
    boxes, labels, ignore = BOXES[:1], np.array([0]), np.zeros(1, bool)

    def beside_the_box(*class_names):
        drawn = draw_annotations(IMAGE, boxes, labels, ignore, class_names, long_side=900)
        return near(drawn[:600], class_color(0))[:95].any()

    assert beside_the_box("cat", "dog")
    assert not beside_the_box("cat")
