"""What torchvision and this project are both asked, and where torchvision's answers lie.

`scripts/peer_fixtures.py` writes the answers to `tests/fixtures`, `tests/parity` holds this project
against them. The questions are drawn anew on both sides, with NumPy alone.
"""

import math
import pathlib

import numpy as np
from references import random_boxes
from seeded_weights import seeded_array, seeded_image

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"


def peer_answers(name: str) -> dict[str, np.ndarray]:
    """Returns the arrays of one fixture."""
    with np.load(FIXTURES / f"{name}.npz") as arrays:
        return dict(arrays)


def pyramid_grids(height: int, width: int) -> tuple[tuple[int, int], ...]:
    """Returns rows and columns of p2 to p6, each half of the one before, rounded up."""
    return tuple((math.ceil(height / s), math.ceil(width / s)) for s in (4, 8, 16, 32, 64))


PYRAMID_SIZES = ((32,), (64,), (128,), (256,), (512,))
TORCHVISION_RATIOS = (0.5, 1.0, 2.0)  # heights over widths

# Sizes of each level, height and width of the canvas, rows and columns of each level.
ANCHORS = {
    "one_level": (((128, 256, 512),), (300, 411), ((18, 25),)),
    "pyramid": (PYRAMID_SIZES, (96, 128), pyramid_grids(96, 128)),
    # The floored strides are 3, 7, 14, 25 and 50 down and 3, 7, 15, 27 and 55 across.
    "odd_pyramid": (PYRAMID_SIZES, (101, 165), pyramid_grids(101, 165)),
}

# Classifiers of torchvision, and what `build_rcnn` calls their convolutions.
BACKBONES = {
    "alexnet": {"backbone": "alexnet"},
    "vgg16": {"backbone": "vgg16"},
    "vgg16_bn": {"backbone": "vgg16", "norm": "frozen_batch_norm"},
    "resnet18": {"backbone": "resnet18"},
    "resnet34": {"backbone": "resnet34"},
    "resnet50": {"backbone": "resnet50"},
    "resnet101": {"backbone": "resnet101"},
    "resnet152": {"backbone": "resnet152"},
    "resnext50_32x4d": {"backbone": "resnext50_32x4d"},
    "resnext101_32x8d": {"backbone": "resnext101_32x8d"},
    "densenet121": {"backbone": "densenet121"},
    "resnet50_dilated": {"backbone": "resnet50", "dilate_c5": True},
}
FEATURES_HW = ((61, 75), (64, 96))  # odd and even, which strides and pools treat differently
FEATURES_EVERY = 16  # of so many channels one is compared

# Channels and, by the canvas of a ResNet, rows and columns of c2 to c5; last of all those of a
# backbone that rounds down.
FPN_CHANNELS = (6, 8, 12, 16)
FPN_GRIDS = {
    "64x96": ((16, 24), (8, 12), (4, 6), (2, 3)),
    "61x75": ((16, 19), (8, 10), (4, 5), (2, 3)),
    "floored": ((15, 23), (7, 11), (3, 5), (1, 2)),
}


def stage_features(name: str):
    """Returns c2 to c5 of one image, (rows, columns, channels)."""
    return [
        seeded_array(f"c{number}", (*grid, channels))
        for number, (grid, channels) in enumerate(
            zip(FPN_GRIDS[name], FPN_CHANNELS, strict=True), start=2
        )
    ]


BOX_WEIGHTS = {"unweighted": (1.0, 1.0, 1.0, 1.0), "weighted": (10.0, 10.0, 5.0, 5.0)}


def coded_boxes():
    """Returns anchors, boxes and deltas; the first deltas are far beyond what a network says."""
    rng = np.random.default_rng(0)
    anchors = random_boxes(rng, 200, extent=600, largest=500)
    boxes = random_boxes(rng, 200, extent=600, largest=500)
    deltas = rng.normal(scale=0.5, size=(200, 4)).astype(np.float32)
    limit = math.log(1000 / 16)
    for row, log_scale in enumerate((limit - 1e-3, limit, limit + 1e-3, 6, 100, -6, -100)):
        deltas[row, 2:] = log_scale, -log_scale
    deltas[7:11, :2] = [[50, -50], [-50, 50], [1000, 0], [0, -1000]]
    return anchors, boxes, deltas


def anchor_grid(rows: int, columns: int):
    """Returns anchors of six shapes on whole pixels, 16 apart, so that their IoUs tie exactly."""
    shapes = np.array([(22, 46), (32, 32), (46, 22), (44, 92), (64, 64), (92, 44)])
    y, x = 16 * np.mgrid[:rows, :columns]
    centres = np.stack([x, y], axis=-1)[:, :, None]
    anchors = np.concatenate([centres - shapes / 2, centres + shapes / 2], axis=-1)
    return anchors.reshape(-1, 4).astype(np.float32)


def matched_boxes():
    """Returns, for each name, anchors, objects and the keywords of a matcher."""
    rng = np.random.default_rng(1)
    anchors = anchor_grid(12, 16)
    few, many = random_boxes(rng, 12, 150, 120), random_boxes(rng, 50, 150, 60)
    # Objects that eight oblong anchors and two square ones overlap most; the first is there twice.
    between = np.float32([[8, 8, 40, 40], [80, 88, 144, 152], [8, 8, 40, 40]])
    corners = rng.integers(0, 200, (10, 2))
    tiny = np.concatenate([corners, corners + 9], axis=1).astype(np.float32)
    # Anchor n overlaps the object by exactly n / 100; anchor 0 has no area.
    slabs = np.zeros((101, 4), np.float32) + [0, 0, 100, 0] + np.arange(101)[:, None] * [0, 0, 0, 1]
    square = np.array([[0, 0, 100, 100]], np.float32)
    halves = {"fg_iou_threshold": 0.5, "bg_iou_threshold": 0.5}
    return {
        "random": (anchors, few, {}),
        "random_above_thresholds_alone": (anchors, few, {"allow_low_quality": False}),
        "random_with_equal_thresholds": (anchors, few, halves),
        "crowded": (anchors, many, {}),
        "ties": (anchors, between, {}),
        "low_quality_alone": (anchors, tiny, {}),
        "no_objects": (anchors, few[:0], {}),
        "at_the_thresholds": (slabs.astype(np.float32), square, {}),
        "at_equal_thresholds": (slabs.astype(np.float32), square, halves),
        "one_object": (anchors, few[:1], {}),
        "one_object_and_one_out_of_reach": (anchors, np.stack([few[0], few[0] + 1000]), {}),
        "one_object_and_one_without_area": (
            anchors,
            np.stack([few[0], np.float32([50, 50, 50, 80])]),
            {},
        ),
    }


# Positives and negatives of an image of the minibatch of 256: all of it, and less than that.
SAMPLED = {"full": (100, 156), "short": (20, 60)}


def head_outputs_and_targets(num_positive: int, num_negative: int):
    """Returns logits, deltas, labels and target deltas of two images of 600 anchors."""
    rng = np.random.default_rng(2)
    logits = (4 * rng.normal(size=(2, 600))).astype(np.float32)
    logits[:, :4] = [80, -80, 0, 30]
    deltas, targets = rng.normal(scale=0.4, size=(2, 2, 600, 4)).astype(np.float32)
    targets[:, :5] = deltas[:, :5]  # no error at all
    labels = np.full(600, -1, np.int32)
    labels[:num_positive] = 1
    labels[num_positive : num_positive + num_negative] = 0
    # The second image's order is its own; the anchors without error are positives of the first.
    return logits, deltas, np.stack([labels, rng.permutation(labels)]), targets


def suppressed_boxes():
    """Returns, for each name, boxes, scores and an IoU threshold."""
    rng = np.random.default_rng(3)
    # On quarters of a pixel every area is exact, so that no IoU depends on how it is computed.
    boxes = np.round(4 * random_boxes(rng, 2000, 300, 80)) / 4
    scores = rng.permutation(2000).astype(np.float32)
    corners = rng.integers(0, 20, (300, 2))
    whole = np.concatenate([corners, corners + rng.integers(5, 25, (300, 2))], axis=1)
    tied = whole.astype(np.float32), rng.integers(0, 4, 300).astype(np.float32)
    # Without width, without height, without both, inside out, a sound one; each twice.
    degenerate = [
        [5, 0, 5, 9],
        [0, 5, 9, 5],
        [5, 5, 5, 5],
        [9, 9, 0, 0],
        [9, 0, 0, 9],
        [0, 0, 9, 9],
    ]
    degenerate = np.repeat(np.float32(degenerate), 2, axis=0)
    falling = -np.arange(12, dtype=np.float32)
    at_threshold = {
        # The second covers just so much of the first.
        f"at_{iou}": (np.float32([[0, 0, 100, 100], [0, 0, 100, 100 * iou]]), falling[:2], iou)
        for iou in (0.3, 0.5, 0.7)
    }
    apart = np.float32([[20 * i, 0, 20 * i + 9, 9] for i in range(4)])
    return {
        "random_0.3": (boxes, scores, 0.3),
        "random_0.5": (boxes, scores, 0.5),
        "random_0.7": (boxes, scores, 0.7),
        "ties_0.5": (*tied, 0.5),
        "ties_0.7": (*tied, 0.7),
        "degenerate": (degenerate, falling, 0.5),
        "none": (boxes[:0], scores[:0], 0.5),
        "not_finite": (apart, np.float32([1, -np.inf, np.nan, 2]), 0.5),
    } | at_threshold


ROI_SCALE = 1 / 16
ROI_SIZE = (3, 4)
# Samples a bin and axis, 0 for as many as it has cells; whether cell centres lie at half a cell.
ROI_ALIGNS = {
    f"{'aligned' if aligned else 'unaligned'}_{ratio or 'adaptive'}": (ratio, aligned)
    for aligned in (False, True)
    for ratio in (1, 2, 0)
}
ROI_STRIDES = (4, 8, 16, 32)


def regions(name: str):
    """Returns a feature map with ties, 9 x 11 cells, and regions of all kinds."""
    rng = np.random.default_rng(9)
    features = rng.integers(-9, 9, (9, 11, 3)).astype(np.float32)
    odd = [
        [0, 0, 176, 144],  # the whole map
        [-60, -40, 70, 50],  # across the border
        [100, 80, 300, 200],
        [-900, -900, -700, -800],  # outside
        [900, 20, 990, 60],
        [-900, -800, 1000, 1100],  # huge
        [40, 40, 41, 41],  # tiny
        [50.3, 61.7, 50.3, 61.7],  # a point
        [50.3, 20, 50.3, 99],  # without width
        [120, 90, 30, 20],  # inside out
        [120, 20, 30, 90],
        [8, 24, 40, 56],  # corners half way between cells
        [-8, -24, 40, 56],
    ]
    boxes = np.concatenate([np.float32(odd), random_boxes(rng, 12, 150, 100)])
    if name == "aligned_adaptive":  # torchvision fails at a negative number of samples
        boxes = boxes[(boxes[:, 2:] >= boxes[:, :2]).all(axis=1)]
    return features, boxes


def pyramid_regions():
    """Returns maps of an image of 128 x 160 pixels, finest first, and regions of every level."""
    rng = np.random.default_rng(10)
    levels = [
        rng.normal(size=(*grid, 3)).astype(np.float32) for grid in pyramid_grids(128, 160)[:4]
    ]
    # The canonical size is 224 pixels, larger than the image: the map's edge is tested too.
    sides = [[0, 0, side, side] for side in (111.99, 112, 112.01, 224, 447.99, 448, 600)]
    return levels, np.concatenate([np.float32(sides), random_boxes(rng, 20, 120, 260)])


def boxes_beside_levels():
    """Returns squares at, beside and just below the sizes with which levels begin."""
    sizes = np.float32([112, 224, 448])
    near = [sizes, sizes - 0.01, sizes + 0.01, np.nextafter(sizes, 0), sizes * np.float32(1 - 4e-7)]
    sides = np.concatenate([*near, sizes * np.float32(1 - 3e-6), np.float32([0, 1, 50, 5000])])
    zeros = np.zeros_like(sides)
    return np.stack([zeros, zeros, sides, sides], axis=1)


def gradient_of_regions(*shape: int):
    """Returns the gradient of the features of regions, (R, h, w, C)."""
    return np.random.default_rng(11).normal(size=shape).astype(np.float32)


PROPOSAL_SIZES = {"one_level": ((32, 64, 128),), "five_levels": PYRAMID_SIZES}
PROPOSAL_CANVAS = {"one_level": (192, 256), "five_levels": (128, 160)}
PROPOSAL_GRIDS = {"one_level": ((12, 16),), "five_levels": pyramid_grids(128, 160)}
# The image is smaller than its canvas; torchvision proposes from the padding too.
PROPOSAL_IMAGE = {"one_level": (180, 250), "five_levels": (120, 150)}
PROPOSAL_COUNTS = {"one_level": (1200, 200), "five_levels": (600, 300)}  # before, after the NMS
PROPOSAL_MIN_SIZES = {"one_level": 16.0, "five_levels": 1e-3}


def head_outputs(name: str):
    """Returns the logits and deltas of each level, in the order row, column, anchor."""
    # By this seed no IoU of two boxes of a level is within 3e-5 of the NMS's 0.7, so that rounding
    # in the decoder decides nothing.
    rng = np.random.default_rng(7)
    anchors_at_a_position = 3 * len(PROPOSAL_SIZES[name][0])
    counts = [anchors_at_a_position * rows * columns for rows, columns in PROPOSAL_GRIDS[name]]
    # Far enough apart that float32 probabilities, which torchvision ranks, keep their order.
    logits = rng.permutation(np.linspace(-6, 2, sum(counts), dtype=np.float32))
    deltas = rng.normal(scale=0.3, size=(sum(counts), 4)).astype(np.float32)
    deltas[::50, 2:] *= 30  # up to the decoder's limit, and down to nothing
    ends = np.cumsum(counts)[:-1]
    return np.split(logits, ends), np.split(deltas, ends)


def head_outputs_not_finite():
    """Returns logits, deltas and anchors: an infinite scale, a sound box, a NaN delta and logit."""
    deltas = np.zeros((4, 4), np.float32)
    deltas[0, 2:], deltas[2, 0] = np.inf, np.nan
    anchors = np.float32([[40, 40, 60, 60], [50, 50, 60, 60], [0, 0, 20, 20], [0, 0, 20, 20]])
    return np.float32([3, 2, 1, np.nan]), deltas, anchors


def padded_images():
    """Returns two images, as a network sees them on their canvas, and their heights and widths."""
    image = seeded_image(96, 128)
    images = np.stack([image, image[:, ::-1]])
    image_hw = ((90, 128), (96, 117))
    for image, (height, width) in zip(images, image_hw, strict=True):
        image[height:], image[:, width:] = 0, 0
    return images, image_hw


# Whole detectors of torchvision; a Mask R-CNN has all that its first Faster R-CNN has.
DETECTORS = ("fasterrcnn_resnet50_fpn_v2", "maskrcnn_resnet50_fpn")
NUM_MASKS = 10  # of an image's detections, the best, are compared


def detector_state_dict(name: str) -> dict[str, np.ndarray]:
    """Returns the seeded weights of one of torchvision's `DETECTORS`, as a file holds them."""
    answers = peer_answers(name)
    return {
        str(name): np.array(0)
        if name.endswith("num_batches_tracked")
        else seeded_array(str(name), tuple(int(size) for size in shape if size))
        for name, shape in zip(answers["names"], answers["shapes"], strict=True)
    }


# The second stage: proposals, logits and deltas of one image, and its objects.
STAGE_HW = (120, 160)
STAGE_CLASSES = 6  # background included
STAGE_CASES = ("crowd", "few", "empty")


def stage_case(name: str) -> dict[str, np.ndarray]:
    """Returns proposals, class logits, box deltas, objects and their labels."""
    rng = np.random.default_rng(STAGE_CASES.index(name))
    count = {"crowd": 200, "few": 20, "empty": 50}[name]
    objects = random_boxes(rng, 8, extent=110, largest=60)
    near = objects[rng.integers(8, size=count)] + rng.normal(scale=5, size=(count, 4))
    proposals = np.where(rng.random((count, 1)) < 0.6, near, random_boxes(rng, count, 110, 60))
    corners = np.sort(np.clip(proposals, 0, (160, 120, 160, 120)).reshape(count, 2, 2), axis=1)
    return {
        "proposals": corners.reshape(count, 4).astype(np.float32),
        "logits": rng.normal(
            loc=np.where(np.arange(STAGE_CLASSES) == 0, 15.0 if name == "empty" else 0.0, 0.0),
            scale=2,
            size=(count, STAGE_CLASSES),
        ).astype(np.float32),
        "deltas": rng.normal(size=(count, STAGE_CLASSES, 4)).astype(np.float32),
        "objects": objects.astype(np.float32),
        "labels": rng.integers(1, STAGE_CLASSES, size=8),
    }


# The mask stage: objects as whole bitmaps, and regions of them.
MASK_HW = (120, 160)
MASK_SIZE = 28
MASK_CLASSES = 3  # background included


def mask_case() -> dict[str, np.ndarray]:
    """Returns the bitmaps, boxes and labels of objects; regions, their objects and mask logits.

    The objects are rings and stars of 10 to 100 pixels; each covers more than half of its regions.
    """
    rng = np.random.default_rng(12)
    y, x = np.mgrid[: MASK_HW[0], : MASK_HW[1]] + 0.5
    bitmaps, boxes = [], []
    for radius, arms in ((5, 0), (10, 5), (18, 0), (30, 7), (50, 3), (58, 0)):
        centre = rng.uniform(radius + 1, np.array(MASK_HW) - radius - 1)
        down, across = y - centre[0], (x - centre[1]) * rng.uniform(1, 1.5)
        distance = np.hypot(down, across) / radius
        edge = 0.75 + 0.25 * np.cos(arms * np.arctan2(down, across)) if arms else 1.0
        bitmap = (distance < edge) & ((distance > 0.35) | (arms > 0))
        rows, columns = (np.flatnonzero(bitmap.any(axis=axis)) for axis in (1, 0))
        bitmaps.append(bitmap)
        boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    boxes = np.float32(boxes)
    gt_index = np.repeat(np.arange(len(boxes)), 4)
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)[gt_index]
    regions = boxes[gt_index] + sides * rng.uniform(-0.12, 0.12, (len(gt_index), 4))
    shape = (len(gt_index), MASK_SIZE, MASK_SIZE, MASK_CLASSES)
    return {
        "bitmaps": np.array(bitmaps),
        "objects": boxes,
        "labels": np.arange(len(boxes)) % 2 + 1,
        "regions": np.clip(regions, 0, (160, 120, 160, 120)).astype(np.float32),
        "gt_index": gt_index,
        "logits": rng.normal(scale=2, size=shape).astype(np.float32),
    }


def pasted_masks() -> tuple[np.ndarray, np.ndarray]:
    """Returns masks of detections, and their boxes: across borders, tiny, a point."""
    rng = np.random.default_rng(13)
    coarse = rng.random((12, 7, 7))
    masks = np.kron(coarse, np.ones((4, 4)))  # patches, so that what is pasted has areas
    boxes = random_boxes(rng, 12, 110, 60)
    boxes[:6] = [
        [-20.3, -9.7, 30.2, 40.9],
        [120.5, 90.25, 171, 140],
        [0, 0, 160, 120],
        [50.5, 60.5, 51, 60.75],
        [20, 20, 20, 20],
        [10.9, 10.1, 13.2, 100.7],
    ]
    return masks.astype(np.float32), boxes.astype(np.float32)


# Functions of torchvision's `transforms.v2.functional`, and what they are called with.
COLOR_FACTORS = {
    "adjust_brightness": (0.0, 0.6, 1.0, 1.3, 2.7),
    "adjust_contrast": (0.0, 0.5, 1.0, 1.45),
    "adjust_saturation": (0.0, 0.7, 1.0, 1.5),
    "adjust_hue": (-0.5, -0.2, 0.0, 0.05, 0.37),
}


def color_image():
    """Returns an image of 48 x 64 pixels: smooth colours, greys, noise, black and white."""
    y, x = np.mgrid[:48, :64]
    x, y = x / 64, y / 48
    image = 255 * np.stack([x, y, 1 - x * y], axis=2)
    image[:12] = np.random.default_rng(29).integers(0, 256, (12, 64, 3))
    image[12:24] = 255 * x[12:24, :, None]
    image[-4:, :8], image[-4:, 8:16] = 0, 255
    return image.astype(np.uint8)
