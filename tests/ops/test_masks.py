import functools

import jax
import numpy as np
import pytest
import references

from rpn_jax.ops.masks import crop_masks, mask_loss

RNG = np.random.default_rng(0)
# Patches of 3 x 3 cells with values of all sizes.
MASKS = np.kron(RNG.integers(0, 256, (3, 4, 4)), np.ones((3, 3))).astype(np.uint8)
OBJECTS = np.float32([[10, 10, 40, 30], [5.5, 7.25, 9, 60], [0, 0, 12, 12]])
GT_INDEX = np.array([0, 0, 1, 2, 2, 2, 1])
REGIONS = np.float32(
    [
        [10, 10, 40, 30],  # the object's box
        [3, 12.5, 35, 41],  # across its border
        [5, 10, 8.5, 50],
        [2, 3, 5, 4.5],  # smaller than the mask's cells
        [-30, -40, 50, 60],  # bins of more cells than there are samples
        [40, 40, 50, 50],  # outside
        [7, 7, 7, 7],  # a point
    ]
)
jitted_crop = jax.jit(crop_masks, static_argnames=("size", "soft", "aligned"))
crop = functools.partial(jitted_crop, MASKS, OBJECTS, REGIONS, GT_INDEX, size=5)


def slowly(regions):
    return np.array(
        [
            references.crop_mask(MASKS[index], OBJECTS[index], region, 5)
            for region, index in zip(regions, GT_INDEX, strict=True)
        ]
    )


@pytest.mark.parametrize("aligned", [True, False])
def test_a_bin_is_the_mean_of_its_samples(aligned):
    expected = slowly(REGIONS if aligned else REGIONS + np.float32(0.5))
    assert np.ptp(expected) > 0.8
    found = crop(soft=True, aligned=aligned)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    if aligned:
        np.testing.assert_array_equal(crop(), np.float32(found) >= 0.5)


def test_the_objects_box_has_its_mask_and_beside_it_there_is_nothing():
    masks = RNG.integers(0, 2, (1, 4, 4), np.uint8) * np.uint8(255)
    boxes = np.float32([[3, 5, 11, 9], [11, 5, 19, 9]])
    found = jitted_crop(masks, boxes[:1], boxes, np.array([0, 0]), size=4, soft=True)
    np.testing.assert_allclose(found[0], masks[0] / 255, atol=1e-6)
    assert not np.asarray(found[1]).any()


def test_nothing_to_crop_and_objects_without_area():
    none = jitted_crop(MASKS[:0], OBJECTS[:0], REGIONS, GT_INDEX, size=5)
    assert not np.asarray(none).any()
    assert jitted_crop(MASKS, OBJECTS, REGIONS[:0], GT_INDEX[:0], size=5).shape == (0, 5, 5)
    flat = np.zeros_like(OBJECTS)
    assert np.isfinite(jitted_crop(MASKS, flat, REGIONS, GT_INDEX, size=5)).all()


def test_a_mirrored_mask_is_cropped_to_the_mirror_image():
    def mirrored(boxes):
        return np.stack([100 - boxes[:, 2], boxes[:, 1], 100 - boxes[:, 0], boxes[:, 3]], axis=1)

    found = jitted_crop(
        MASKS[:, :, ::-1], mirrored(OBJECTS), mirrored(REGIONS), GT_INDEX, size=5, soft=True
    )
    np.testing.assert_allclose(found[:, :, ::-1], crop(soft=True), atol=2e-5)


LOGITS = RNG.normal(scale=2, size=(3, 2, 2)).astype(np.float32)
TARGETS = RNG.random((3, 2, 2)).astype(np.float32)
LABELS = np.array([2, 0, 3])
loss_and_gradient = jax.jit(jax.value_and_grad(mask_loss))


def test_the_loss_is_that_of_the_positives_classes():
    logits = np.float64(LOGITS[[0, 2]])
    p, targets = 1 / (1 + np.exp(-logits)), TARGETS[[0, 2]]
    entropies = -targets * np.log(p) - (1 - targets) * np.log(1 - p)
    expected = entropies[0].mean() + entropies[1].mean()
    assert float(loss_and_gradient(LOGITS, TARGETS, LABELS)[0]) == pytest.approx(expected, rel=1e-5)


def test_what_has_no_class_adds_nothing_even_where_it_is_not_finite():
    logits = LOGITS.copy()
    logits[1] = np.nan
    logits[1, 0, 0] = np.inf
    loss, gradient = loss_and_gradient(logits, TARGETS, LABELS)
    assert float(loss) == float(loss_and_gradient(LOGITS, TARGETS, LABELS)[0])
    assert np.isfinite(gradient).all()
    assert not gradient[1].any()
    assert not loss_and_gradient(logits, TARGETS, 0 * LABELS)[1].any()
