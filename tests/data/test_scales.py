"""Large-scale jitter, beside a slow reference that goes pixel by pixel and box by box."""

import math

import cv2
import jax
import numpy as np
import pytest

from rpn_jax.data.images import decode_image
from rpn_jax.data.loader import train_batches
from rpn_jax.data.plan import BatchPlan
from rpn_jax.data.scales import Jitter, one_canvas

CANVAS = 40, 56
STEPS, SIZE = 12, 4


def jitter(dataset, smallest=0.1, largest=2.0, min_side=4.0):
    return Jitter(smallest, largest, min_side, one_canvas(CANVAS, len(dataset)))


def batches(dataset, scale, start_step=0, num_steps=STEPS, **options):
    plan = BatchPlan(scale.buckets.of_example, SIZE, seed=3)
    return train_batches(
        dataset, plan, [scale], start_step=start_step, num_steps=num_steps, **options
    )


def reference(record, scale, flip, draws):
    """The canvas, the image's extent on it, and a (box, label, ignore) of each object left."""
    rows, columns = CANVAS
    height, width = record.height, record.width
    factor = scale.smallest + draws[0] * (scale.largest - scale.smallest)
    factor *= min(rows / height, columns / width)
    new_height, new_width = (max(8, math.floor(n * factor + 0.5)) for n in (height, width))
    pixels = decode_image(record.image_bytes, record.filename, record.turn)
    pixels = np.ascontiguousarray(pixels[:, ::-1]) if flip else pixels
    shrinks = new_height < height or new_width < width
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    pixels = cv2.resize(pixels, (new_width, new_height), interpolation=method)
    top = math.floor(draws[1] * (max(new_height - rows, 0) + 1))
    left = math.floor(draws[2] * (max(new_width - columns, 0) + 1))
    canvas = np.zeros((rows, columns, 3), np.uint8)
    for y in range(rows):
        for x in range(columns):
            if y + top < new_height and x + left < new_width:
                canvas[y, x] = pixels[y + top, x + left]
    shown = min(rows, new_height), min(columns, new_width)
    objects = []
    for box, label, ignore in zip(record.boxes, record.labels, record.ignore, strict=True):
        x1, y1, x2, y2 = map(float, box)
        x1, x2 = (width - x2, width - x1) if flip else (x1, x2)
        xs = [min(max(x * new_width / width - left, 0), shown[1]) for x in (x1, x2)]
        ys = [min(max(y * new_height / height - top, 0), shown[0]) for y in (y1, y2)]
        if xs[1] - xs[0] >= scale.min_side and ys[1] - ys[0] >= scale.min_side:
            objects.append(((xs[0], ys[0], xs[1], ys[1]), label + 1, ignore))
    return canvas, shown, objects


def test_jitter_shows_what_a_slow_reference_shows(voc_dataset):
    scale = jitter(voc_dataset)
    plan = BatchPlan(scale.buckets.of_example, SIZE, seed=3)
    seen = {"flipped": 0, "cropped": 0, "padded": 0, "gone": 0, "ignored": 0}
    for step, batch in enumerate(batches(voc_dataset, scale)):
        planned = plan.batch(step)
        assert batch.images.shape == (SIZE, *CANVAS, 3)
        for i, example in enumerate(planned.examples):
            record, flip = voc_dataset[example], bool(planned.flips[i])
            canvas, shown, objects = reference(record, scale, flip, planned.draws[i])
            np.testing.assert_array_equal(batch.images[i], canvas)
            assert tuple(batch.image_hw[i]) == shown
            count = len(objects)
            assert batch.gt_valid[i].tolist() == [True] * count + [False] * (8 - count)
            for slot, (box, label, ignore) in enumerate(objects):
                np.testing.assert_allclose(batch.gt_boxes[i, slot], box, atol=1e-4)
                assert batch.gt_labels[i, slot] == label
                assert batch.gt_ignore[i, slot] == ignore
            assert not batch.gt_labels[i, count:].any()
            seen["flipped"] += flip and count > 0
            seen["cropped"] += shown == CANVAS
            seen["padded"] += shown[0] < CANVAS[0]
            seen["gone"] += count < len(record.boxes)
            seen["ignored"] += any(ignore for *_, ignore in objects)
    assert all(seen.values()), seen


def test_jitter_follows_from_seed_and_step_alone(voc_dataset):
    scale = jitter(voc_dataset)
    whole = list(batches(voc_dataset, scale, num_threads=3))
    resumed = batches(voc_dataset, scale, start_step=7, num_steps=5, num_threads=1)
    for one, other in zip(whole[7:], resumed, strict=True):
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_array_equal(a, b)
    shares = [
        batches(voc_dataset, scale, process_index=p, process_count=2, num_steps=4) for p in range(2)
    ]
    for one, first, second in zip(whole, *shares, strict=False):
        joined = jax.tree.map(lambda *parts: np.concatenate(parts), first, second)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(joined), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("draws", "resized", "corner", "shown"),
    [
        # 40x56 holds an image of 30x40 at 4/3: 0.1 of that is 4x5, which would be too small.
        ([0, 0, 0], (8, 8), (0, 0), (8, 8)),
        ([1, 0, 0], (80, 107), (0, 0), CANVAS),
        ([1, 0.9999, 0.9999], (80, 107), (40, 51), CANVAS),
        ([0.5, 0.5, 0.5], (42, 56), (1, 0), CANVAS),  # a factor of 1.05
    ],
)
def test_the_range_of_sizes_and_crops(draws, resized, corner, shown, voc_dataset):
    view = jitter(voc_dataset).view(30, 40, CANVAS, np.array(draws, float))
    assert view[:3] == (resized, corner, shown)
