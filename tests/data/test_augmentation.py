"""Augmentations through the loader, beside slow references that go box by box."""

import jax
import numpy as np
import pytest
from references import cut_mask, iou

from rpn_jax.data.augmentation import Color, Crop, Own, Sample, decoded
from rpn_jax.data.datasets import open_dataset, prepare_dataset
from rpn_jax.data.loader import train_batches
from rpn_jax.data.masks import Masks, decode
from rpn_jax.data.plan import BatchPlan, choose_buckets
from rpn_jax.data.proposals import StoredProposals
from rpn_jax.data.scales import Scale
from rpn_jax.data.transforms import flip_horizontally, resize, resized_hw

OVERLAPS = (0.0, 0.3, 0.6, 1.0)
CROP = Crop(OVERLAPS, (0.3, 1.0), (0.5, 2.0))
COLOR = Color(0.125, 0.5, 0.5, 0.05)
SIDES = dict(shorter_side=48, longer_side=80)
SIZE, SEED, STEPS, CELLS = 4, 3, 8, 14


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Images with masks, and a proposal round each object."""
    place = dict(data_dir=tmp_path_factory.mktemp("shapes"), image_size=64, num_test=1)
    prepare_dataset("shapes", num_train=6, **place)
    dataset = open_dataset("shapes", "train", num_train=6, **place)
    boxes = np.concatenate([dataset[i].boxes for i in range(6)]) + np.float32([[-1, 0, 0, 0]])
    boxes = np.maximum(boxes, 0)
    starts = np.cumsum([0, *dataset.num_objects])
    scores = np.linspace(1, 0.5, len(boxes), dtype=np.float32)
    return dataset.with_proposals(StoredProposals(boxes, scores, starts, "digest"))


def scale_of(dataset):
    return Scale(48, 80, choose_buckets(dataset.heights, dataset.widths, **SIDES))


def batches(dataset, augmentations, start_step=0, num_steps=STEPS, **options):
    scale = scale_of(dataset)
    plan = BatchPlan(scale.buckets.of_example, SIZE, SEED)
    fields = dict(start_step=start_step, num_steps=num_steps, mask_size=CELLS)
    return train_batches(
        dataset, plan, [scale], augmentations=augmentations, **{**fields, **options}
    )


def crop_window(boxes, ignore, height, width, rng):
    """The rule of SSD, one window and one box after another; None for the whole image."""
    least = OVERLAPS[rng.integers(len(OVERLAPS))]
    if least >= 1 or all(ignore):
        return None
    for _ in range(40):
        a, b, c, d = rng.random(4)
        rows, columns = int(height * (0.3 + a * 0.7)), int(width * (0.3 + b * 0.7))
        top, left = int((height - rows) * c), int((width - columns) * d)
        window = left, top, left + columns, top + rows
        if not 0.5 <= columns / rows <= 2:
            continue
        for box, is_ignored in zip(boxes, ignore, strict=True):
            if not is_ignored and centred(box, window) and iou(box, window) >= least:
                return window
    return None


def centred(box, window):
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return window[0] < x < window[2] and window[1] < y < window[3]


def clipped(box, window):
    x1, y1, x2, y2 = window
    a, b, c, d = np.clip(box, [x1, y1, x1, y1], [x2, y2, x2, y2]) - [x1, y1, x1, y1]
    return (a, b, c, d) if c > a and d > b else None


def test_a_crop_shows_what_a_slow_reference_shows(shapes, voc_dataset):
    """Of images, boxes, labels, ignore regions, masks and proposals."""
    seen = dict.fromkeys(("cropped", "whole", "gone", "clipped", "mirrored", "ignored"), 0)
    for dataset in (shapes, voc_dataset):
        plan = BatchPlan(scale_of(dataset).buckets.of_example, SIZE, SEED)
        for step, batch in enumerate(batches(dataset, [CROP])):
            planned = plan.batch(step)
            for place, example in enumerate(planned.examples.tolist()):
                rng = np.random.default_rng([*planned.seed, place, 0])
                flip = bool(planned.flips[place])
                assert_shows_a_crop(dataset, example, rng, flip, batch, place, seen)
                seen["mirrored"] += flip
    assert all(seen.values()), seen


def assert_shows_a_crop(dataset, example, rng, flip, batch, place, seen):
    record = dataset[example]
    sample = decoded(record, *proposals_of(dataset, example), with_masks=False)
    hw = record.height, record.width
    window = crop_window(record.boxes, record.ignore, *hw, rng)
    seen["whole" if window is None else "cropped"] += 1
    shown = left, top, right, bottom = window or (0, 0, *hw[::-1])
    objects = []
    for i, box in enumerate(record.boxes):
        stays = window is None or record.ignore[i] or centred(box, window)
        inside = clipped(box, shown) if stays else None
        seen["gone"] += inside is None
        if inside is not None:
            seen["clipped"] += bool((inside != box - [left, top, left, top]).any())
            seen["ignored"] += bool(record.ignore[i])
            objects.append((i, inside))
    boxes = [box for _, box in objects]
    boxes += filter(None, [clipped(box, shown) for box in sample.proposals])
    boxes = np.float32(boxes).reshape(-1, 4)
    pixels = np.ascontiguousarray(sample.image[top:bottom, left:right])
    if flip:
        pixels, boxes = flip_horizontally(pixels, boxes)
    new_hw = tuple(batch.image_hw[place].astype(int).tolist())
    pixels, boxes = resize(pixels, boxes, new_hw)
    np.testing.assert_array_equal(batch.images[place, : new_hw[0], : new_hw[1]], pixels)
    count = len(objects)
    assert batch.gt_valid[place].sum() == count
    np.testing.assert_allclose(batch.gt_boxes[place, :count], boxes[:count], atol=1e-4)
    given = batch.proposals[place][batch.proposal_valid[place]]
    np.testing.assert_allclose(given, boxes[count:], atol=1e-4)
    for slot, (i, inside) in enumerate(objects):
        assert batch.gt_labels[place, slot] == record.labels[i] + 1
        assert batch.gt_ignore[place, slot] == record.ignore[i]
        cells = np.zeros((CELLS, CELLS))
        if record.masks and not record.ignore[i]:
            mask = decode(record.masks[i], *hw)[top:bottom, left:right]
            cells = cut_mask(mask, inside, CELLS)
        found = batch.gt_masks[place, slot].astype(int)
        assert np.abs(found - (cells[:, ::-1] if flip else cells)).max() <= 1


def proposals_of(dataset, index):
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
    return dataset.proposals.of(index) if dataset.proposals else nothing


def test_a_crop_of_any_shape_fits_the_canvas_of_its_image(voc_dataset):
    """So that no canvas, and no program, is added."""
    canvases = set(scale_of(voc_dataset).buckets.canvases)
    shapes, unlike = set(), 0
    for batch in batches(voc_dataset, [Crop((0.0,), (0.3, 1.0), (0.1, 10.0))], num_steps=20):
        assert batch.images.shape[1:3] in canvases
        assert (batch.image_hw <= batch.images.shape[1:3]).all()
        shapes |= {tuple(hw) for hw in batch.image_hw}
        unlike += (batch.image_hw[:, 0] > batch.image_hw[:, 1]).sum()
    assert len(shapes) > 10
    assert unlike


def test_an_image_that_is_not_augmented_keeps_its_size(voc_dataset):
    for batch in batches(voc_dataset, [COLOR]):
        for hw, index in zip(batch.image_hw, batch.image_index, strict=True):
            record = voc_dataset[index]
            assert tuple(hw) == resized_hw(record.height, record.width, **SIDES)


def test_augmentations_follow_from_seed_step_and_place_alone(shapes):
    augmentations = [COLOR, CROP]
    whole = list(batches(shapes, augmentations, num_threads=3))
    resumed = batches(shapes, augmentations, start_step=3, num_steps=STEPS - 3, num_threads=1)
    for one, other in zip(whole[3:], resumed, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)
    shares = [batches(shapes, augmentations, process_index=p, process_count=2) for p in range(2)]
    for one, first, second in zip(whole, *shares, strict=True):
        joined = jax.tree.map(lambda *parts: np.concatenate(parts), first, second)
        jax.tree.map(np.testing.assert_array_equal, one, joined)
    plain = list(batches(shapes, []))
    for one, other in zip(whole, plain, strict=True):
        np.testing.assert_array_equal(one.image_index, other.image_index)
        assert (one.images != other.images).any()


def test_color_leaves_all_but_the_pixels_and_draws_each_time(shapes):
    sample = decoded(shapes[0], *shapes.proposals.of(0), with_masks=True)
    one, same, other = (COLOR(sample, np.random.default_rng(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.image, same.image)
    assert (one.image != other.image).any()
    assert one._replace(image=None)[1:] == sample[1:]
    still = Color(0.0, 0.0, 0.0, 0.0)(sample, np.random.default_rng(0))
    np.testing.assert_array_equal(still.image, sample.image)


def test_masks_of_a_window_are_cut_decoded_and_written_as_the_window_shows_them():
    bitmap = np.zeros((20, 30), bool)
    bitmap[4:15, 5:22] = True
    masks = Masks.of(np.stack([bitmap, ~bitmap])).window(2, 6, 12, 20).window(1, 1, 8, 12)
    shown = np.stack([bitmap, ~bitmap])[:, 3:11, 7:19]
    np.testing.assert_array_equal(masks, shown)
    np.testing.assert_array_equal(masks[1], shown[1])
    np.testing.assert_array_equal(Masks(masks.counts, 8, 12), shown)
    np.testing.assert_array_equal(masks[np.array([False, True])], shown[1:])
    box = np.array([0.5, 0.25, 12, 7.5])
    expected = cut_mask(shown[1], box, CELLS)
    assert np.abs(masks.cut(1, box, CELLS).astype(int) - expected).max() <= 1


def quarter_turn(sample, rng):
    """An own augmentation that moves everything: a quarter turn to the left."""
    width = sample.image.shape[1]
    x1, y1, x2, y2 = sample.boxes.T
    boxes = np.stack([y1, width - x2, y2, width - x1], axis=1)
    a, b, c, d = sample.proposals.T
    proposals = np.stack([b, width - c, d, width - a], axis=1)
    masks = None if sample.masks is None else np.rot90(sample.masks, axes=(1, 2))
    image = np.ascontiguousarray(np.rot90(sample.image))
    return sample._replace(image=image, boxes=boxes, proposals=proposals, masks=masks)


def test_an_own_augmentation_moves_masks_and_proposals_too(shapes):
    own = Own("config.data.augmentations", "mine:turn", quarter_turn, len(shapes.class_names))
    for index in range(len(shapes)):
        sample = decoded(shapes[index], *shapes.proposals.of(index), with_masks=True)
        turned = sample
        for _ in range(4):
            turned = own(turned, np.random.default_rng(0))
            for box, mask in zip(turned.boxes, turned.masks, strict=True):
                rows, columns = np.nonzero(mask)
                assert box[0] - 1 <= columns.min() <= columns.max() < box[2] + 1
                assert box[1] - 1 <= rows.min() <= rows.max() < box[3] + 1
        assert isinstance(turned, Sample)
        np.testing.assert_array_equal(turned.image, sample.image)
        np.testing.assert_allclose(turned.boxes, sample.boxes, atol=1e-4)
        np.testing.assert_allclose(turned.proposals, sample.proposals, atol=1e-4)
        np.testing.assert_array_equal(turned.masks, np.asarray(sample.masks))
