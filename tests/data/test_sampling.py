"""Repeat factors beside a slow reference, and the images that a training then shows."""

import doctest
import math

import numpy as np
from training.small import small_config

from rpn_jax.data import sampling
from rpn_jax.data.datasets import open_dataset, prepare_dataset
from rpn_jax.data.sampling import repeat_factors
from rpn_jax.training.loop import training_plan


def slow_factors(images, threshold):
    """Of sets of classes: the definition in LVIS, class by class."""
    factors = []
    for classes in images:
        factor = 1.0
        for name in classes:
            part = sum(name in others for others in images) / len(images)
            factor = max(factor, math.sqrt(threshold / part))
        factors.append(factor)
    return factors


def test_repeat_factors_are_those_of_a_slow_reference():
    rng = np.random.default_rng(0)
    present = rng.random((40, 6)) < [0.9, 0.5, 0.2, 0.05, 0.02, 0.0]
    present[0] = False
    images = [set(np.flatnonzero(row)) for row in present]
    for threshold in (1e-3, 0.1, 0.5, 1.0):
        found = repeat_factors(present, threshold)
        np.testing.assert_allclose(found, slow_factors(images, threshold), rtol=1e-12)
    assert repeat_factors(np.zeros((3, 0), bool), 0.5).tolist() == [1, 1, 1]


def test_classes_of_images_are_those_of_their_objects(voc_dataset):
    found = voc_dataset.image_classes()
    for index, row in enumerate(found):
        record = voc_dataset[index]
        labels = {label for label, i in zip(record.labels, record.ignore, strict=True) if not i}
        assert set(np.flatnonzero(row)) == labels
    assert found.any()
    voc_dataset = voc_dataset.with_classes([*voc_dataset.class_names[::-1], "more"])
    np.testing.assert_array_equal(voc_dataset.image_classes()[:, -2::-1], found)
    voc_dataset._classes = None  # as of data that were prepared before
    np.testing.assert_array_equal(voc_dataset.image_classes()[:, -2::-1], found)


def test_a_training_shows_rare_classes_more_often(tmp_path):
    place = dict(data_dir=tmp_path, image_size=48, num_train=8, num_test=1)
    prepare_dataset("shapes", **place)
    dataset = open_dataset("shapes", "train", **place)
    config = small_config("--config.batch_size=4", "--config.data.repeat_threshold=1.0")
    plan, _ = training_plan(config, dataset)
    images = [set(np.flatnonzero(row)) for row in dataset.image_classes()]
    factors = np.array(slow_factors(images, 1.0))
    assert factors.max() > 1.2 * factors.min()
    steps = 400
    counts = np.bincount(
        np.concatenate([plan.batch(step).examples for step in range(steps)]), minlength=8
    )
    np.testing.assert_allclose(counts, 4 * steps * factors / factors.sum(), atol=4)


def test_the_examples_in_the_docstrings():
    failed, tried = doctest.testmod(sampling)
    assert tried
    assert not failed
