"""Mask targets, loss and pasting, against torchvision's."""

import functools

import jax
import numpy as np
import references
from peer_cases import MASK_HW, MASK_SIZE, mask_case, pasted_masks, peer_answers

from rpn_jax.evaluation.masks import paste_mask_as_torchvision
from rpn_jax.ops.masks import crop_masks, mask_loss

ANSWERS = peer_answers("masks")


def test_targets_are_torchvisions_within_what_the_cut_allows():
    case, expected = mask_case(), ANSWERS["targets"]
    masks = [
        references.cut_mask(bitmap, box, 112)
        for bitmap, box in zip(case["bitmaps"], case["objects"], strict=True)
    ]
    crop = functools.partial(crop_masks, size=MASK_SIZE, soft=True, aligned=False)
    targets = crop(np.array(masks), case["objects"], case["regions"], case["gt_index"])
    targets = np.asarray(targets)
    # A bitmap's pixels are points for it, between which it interpolates, and squares here: half a
    # pixel is a twentieth of the smallest object. Means over each object's regions.
    off, differ = (
        array.reshape(len(case["objects"]), -1).mean(axis=1)
        for array in (np.abs(targets - expected), (targets >= 0.5) != (expected >= 0.5))
    )
    assert (off < (0.08, 0.02, 0.006, 0.003, 0.002, 0.002)).all()
    assert (differ < (0.03, 0.006, 0.002, 0.002, 0.001, 0.001)).all()


def test_the_loss_and_its_gradient_are_torchvisions():
    case = mask_case()
    labels = case["labels"][case["gt_index"]]

    def mean_loss(logits):
        return mask_loss(logits, ANSWERS["targets"], labels) / len(labels)

    of_class = np.take_along_axis(case["logits"], labels[:, None, None, None], axis=-1)[..., 0]
    loss, gradient = jax.jit(jax.value_and_grad(mean_loss))(of_class)
    np.testing.assert_allclose(loss, ANSWERS["loss"], rtol=1e-6)
    scale = np.abs(ANSWERS["d_logits"]).max()
    np.testing.assert_allclose(gradient, ANSWERS["d_logits"], rtol=0, atol=1e-6 * scale)


def test_masks_pasted_as_torchvision_does_are_its():
    masks, boxes = pasted_masks()
    pasted = np.array(
        [paste_mask_as_torchvision(*pair, *MASK_HW) for pair in zip(masks, boxes, strict=True)]
    )
    expected = np.unpackbits(ANSWERS["pasted"], count=pasted.size).reshape(pasted.shape)
    assert expected.any(axis=(1, 2)).sum() >= 10
    np.testing.assert_array_equal(pasted, expected)
