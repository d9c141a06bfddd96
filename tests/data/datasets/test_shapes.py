import numpy as np
import pytest

from rpn_jax.data.datasets.shapes import (
    CLASS_NAMES,
    _coverage,
    _cut,
    _fit,
    _outline,
    draw_example,
    read_shapes,
)
from rpn_jax.data.datasets.source import check_example
from rpn_jax.data.images import decode_image
from rpn_jax.errors import UserError


def test_an_image_depends_on_seed_split_and_index_only():
    one, again = draw_example(0, "train", 5, 64), draw_example(0, "train", 5, 64)
    assert one.image == again.image
    np.testing.assert_array_equal(one.boxes, again.boxes)
    others = [draw_example(1, "train", 5, 64), draw_example(0, "test", 5, 64)]
    others.append(draw_example(0, "train", 6, 64))
    assert all(other.image != one.image for other in others)


def test_boxes_are_inside_the_image_and_of_the_promised_sizes():
    boxes, counts = [], []
    for i in range(40):
        checked = check_example(draw_example(0, "train", i, 128), skip_bad=False)
        assert not checked.clipped
        assert not checked.dropped
        assert (checked.height, checked.width) == (128, 128)
        boxes.append(checked.example.boxes)
        counts.append(len(checked.example.boxes))
    assert min(counts) >= 1
    assert max(counts) <= 8
    width, height = np.concatenate(boxes)[:, 2:].T - np.concatenate(boxes)[:, :2].T
    sizes = np.sqrt(width * height)
    assert sizes.min() >= 12.0
    assert sizes.max() <= 96.1
    assert (sizes < 24).mean() > 0.15  # log-uniform: a third of what is placed
    assert (sizes > 48).mean() > 0.1
    # Drawn from 1:2 to 2:1; what covers a part can only leave something longer.
    aspects = np.abs(np.log2(width / height))
    assert aspects.max() < 2.5
    assert (aspects < 1.001).mean() > 0.9


def test_a_box_ends_where_another_shape_covers_the_object():
    solid = np.zeros((20, 20), bool)
    solid[4:12, 6:16] = True
    covered = np.zeros((20, 20), bool)
    covered[:, 13:] = True
    box = np.array([5.6, 3.7, 16.4, 12.3])
    np.testing.assert_array_equal(_cut(box, solid, solid & ~covered), [5.6, 3.7, 13, 12.3])
    np.testing.assert_array_equal(_cut(box, solid, solid), box)


@pytest.mark.parametrize("kind", CLASS_NAMES)
def test_a_box_is_tight_around_its_shape(kind):
    rng = np.random.default_rng(0)
    for _ in range(20):
        x1y1 = rng.uniform(2, 20, 2)
        box = np.concatenate([x1y1, x1y1 + rng.uniform(10, 40, 2)])
        rows, columns = np.nonzero(_coverage(_fit(_outline(rng, kind), box), 64) > 0.01)
        drawn = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        # A pixel that is covered in part counts, so at most one too many on each side.
        np.testing.assert_allclose(drawn, box, atol=1.15)


def test_a_shape_is_as_wide_as_its_box():
    rng = np.random.default_rng(0)
    for _ in range(20):
        x1, y1 = rng.uniform(2, 20, 2)
        width, height = rng.uniform(10, 40, 2)
        corners = np.array([[0, 0], [width, 0], [width, height], [0, height]]) + [x1, y1]
        drawn = _coverage(corners, 64)
        assert abs(drawn.max(axis=0).sum() - width) < 0.5
        assert abs(drawn.max(axis=1).sum() - height) < 0.5


def test_objects_stand_out_from_what_is_around_them():
    example = draw_example(0, "train", 2, 128)
    image = decode_image(example.image, "x").astype(float)
    for x1, y1, x2, y2 in example.boxes:
        inside = image[int((y1 + y2) / 2), int((x1 + x2) / 2)]
        assert np.linalg.norm(inside - np.median(image, axis=(0, 1))) > 20


def test_splits_have_the_numbers_asked_for():
    source = read_shapes(seed=3, image_size=48, num_train=4, num_test=2)
    assert [len(source.splits[split]) for split in ("train", "test")] == [4, 2]
    example = source.splits["test"][1]()
    assert decode_image(example.image, "x").shape == (48, 48, 3)
    assert example.image == draw_example(3, "test", 1, 48).image
    assert source.digest != read_shapes(seed=4, image_size=48, num_train=4, num_test=2).digest


@pytest.mark.parametrize("options", [{"image_size": 8}, {"num_train": 0}, {"num_test": -1}])
def test_impossible_options_are_refused(options):
    with pytest.raises(UserError, match="shapes: image_size must be at least 32"):
        read_shapes(**options)
