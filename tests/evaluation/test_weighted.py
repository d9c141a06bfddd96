import numpy as np
import pytest
from evaluation.images import random_detections

from rpn_jax.errors import UserError
from rpn_jax.evaluation.precision import PrecisionMeasurement
from rpn_jax.evaluation.weighted import SplitMatches, read_matches
from rpn_jax.files import write_npz

SHAPES = [(40, 12), (60, 5), (0, 4), (30, 0), (90, 20), (10, 1)]


def figures_of(images):
    measurement = PrecisionMeasurement(("none", "cat", "dog"))
    for image in images:
        measurement.add(image)
    return measurement.result()


@pytest.mark.parametrize("seed", range(3))
def test_precision_is_that_of_so_many_copies(seed):
    rng = np.random.default_rng(seed)
    images = [
        image._replace(scores=rng.permutation(len(image.scores)).astype(np.float32))
        for image in random_detections(seed, SHAPES)
    ]
    matches = SplitMatches(**figures_of(images).arrays)
    times = rng.integers(0, 4, (8, len(images)))
    times[0] = 1
    # In another order, and with an image that has no detections and no objects.
    ids = np.array([image.image_id for image in images[::-1]] + [99])
    precision = matches.precision(ids, np.append(times[:, ::-1], times[:, :1], axis=1))
    for row, of_row in zip(times, precision, strict=True):
        copies = [image for image, n in zip(images, row, strict=True) for _ in range(n)]
        copies = [image._replace(image_id=i) for i, image in enumerate(copies)]
        scalars = figures_of(copies).scalars
        expected = [scalars["AP"], scalars["AP50"], scalars["AP75"]]
        np.testing.assert_allclose([of_row.mean(), of_row[0], of_row[5]], expected, atol=1e-6)


def test_without_objects_there_is_none():
    images = random_detections(0, [(5, 0), (0, 3)])
    matches = SplitMatches(**figures_of(images).arrays)
    ids = np.array([image.image_id for image in images])
    assert np.isnan(matches.precision(ids, np.array([[2, 0]]))).all()
    nothing = SplitMatches(**figures_of([]).arrays)
    assert np.isnan(nothing.precision(ids, np.ones((3, 2), int))).all()


def test_there_and_back(tmp_path):
    arrays = figures_of(random_detections(0, SHAPES)).arrays
    path = tmp_path / "detections.npz"
    with pytest.raises(UserError, match="no such file; evaluate"):
        read_matches(path)
    write_npz(path, **arrays)
    for ours, theirs in zip(read_matches(path), arrays.values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for name, change in (("hit", arrays["hit"][:-1]), ("label", arrays["score"])):
        write_npz(path, **{**arrays, name: change})
        with pytest.raises(UserError, match="detections.npz: cannot be read"):
            read_matches(path)
