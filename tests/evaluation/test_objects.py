import json

import numpy as np
import pytest
from evaluation.images import random_images

from rpn_jax.errors import UserError
from rpn_jax.evaluation.matching import IOU_THRESHOLDS, pairwise_iou
from rpn_jax.evaluation.objects import (
    NOT_FOUND,
    concatenate,
    from_lists,
    image_objects,
    read_objects,
    to_lists,
)
from rpn_jax.evaluation.recall import ImageProposals, RecallSums, image_recall
from rpn_jax.files import write_npz


def test_by_hand():
    # Two objects 100 x 100 and a difficult one; the proposals reach the first to 0.52 (score 0.9)
    # and 0.97 (score 0.1), the difficult one exactly (score 0.8), the second not at all.
    image = ImageProposals(
        7,
        np.float32([[0, 0, 100, 97], [300, 0, 400, 100], [0, 0, 100, 52]]),
        np.float32([0.1, 0.8, 0.9]),
        np.float32([[0, 0, 100, 100], [300, 0, 400, 100], [600, 0, 700, 100]]),
        np.array([False, True, False]),
        np.float32([10_000, 10_000, 10_000]),
    )
    objects = image_objects(4, image, np.array([2, 0, 1]), top_n=10)
    assert objects.image_index.tolist() == [4, 4]
    assert objects.class_index.tolist() == [2, 1]
    assert objects.rank.tolist() == [[0] + 9 * [2], 10 * [NOT_FOUND]]
    np.testing.assert_array_equal(objects.found_box, [[0, 0, 100, 52], 4 * [np.nan]])
    assert objects.recall(1).tolist() == [0.5] + 9 * [0]
    assert objects.average_recall(3) == pytest.approx(0.5)
    # The proposal in third place is not among the best two.
    fewer = image_objects(4, image, np.array([2, 0, 1]), top_n=2)
    assert fewer.rank.tolist() == [[0] + 9 * [NOT_FOUND], 10 * [NOT_FOUND]]
    assert (fewer.num_proposals.tolist(), fewer.num_objects.tolist()) == ([2], [2])


@pytest.fixture(scope="module")
def images():
    return random_images(0, [(60, 12), (0, 3), (5, 0), (40, 7)])


def test_recall_is_that_of_the_sums(images):
    labels = [np.arange(len(image.gt_boxes)) for image in images]
    parts = [image_objects(i, *pair, 50) for i, pair in enumerate(zip(images, labels, strict=True))]
    objects = concatenate(parts)
    result = sum(
        (image_recall(image, (1, 10, 50)) for image in images), RecallSums.empty((1, 10, 50))
    ).result()
    for top_n in (1, 10, 50):
        np.testing.assert_allclose(objects.recall(top_n), result.curve(top_n), atol=1e-12)
    assert objects.num_objects.sum() == len(objects.rank) == result.objects["all"]
    assert objects.image_id.tolist() == [image.image_id for image in images]
    # What found an object does cover half of it.
    is_found = objects.rank[:, 0] != NOT_FOUND
    for box, found_box in zip(objects.box[is_found], objects.found_box[is_found], strict=True):
        assert pairwise_iou(found_box[None], box[None]) >= IOU_THRESHOLDS[0]


def test_there_and_back(images, tmp_path):
    labels = [np.zeros(len(image.gt_boxes), int) for image in images]
    objects = concatenate(
        [image_objects(0, *pair, 50) for pair in zip(images, labels, strict=True)]
    )
    sent = from_lists(json.loads(json.dumps(to_lists(objects))))
    write_npz(tmp_path / "objects.npz", **objects._asdict(), class_names=np.array(["a", "b"]))
    read, names = read_objects(tmp_path / "objects.npz")
    assert names == ("a", "b")
    for array, *others in zip(objects, sent, read, strict=True):
        for other in others:
            assert array.dtype == other.dtype
            np.testing.assert_array_equal(array, other)


def test_of_nothing():
    nothing = concatenate([])
    assert np.isnan(nothing.average_recall(10))
    assert from_lists(to_lists(nothing)).box.shape == (0, 4)


def test_what_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "objects.npz"
    with pytest.raises(UserError, match="no such file; evaluate"):
        read_objects(path)
    path.write_bytes(b"PK damaged")
    with pytest.raises(UserError, match="objects.npz: cannot be read"):
        read_objects(path)
