"""Slow, obvious NumPy versions of the operations, to compare with. One loop per "for every"."""

import numpy as np


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return np.float32(0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return np.float32(width * height / union)


def pairwise_iou(a, b):
    return np.array([[iou(x, y) for y in b] for x in a], np.float32).reshape(len(a), len(b))


def pairwise_ioa(a, b):
    out = np.zeros((len(a), len(b)), np.float32)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            width = min(x[2], y[2]) - max(x[0], y[0])
            height = min(x[3], y[3]) - max(x[1], y[1])
            if width > 0 and height > 0:
                out[i, j] = width * height / ((x[2] - x[0]) * (x[3] - x[1]))
    return out


def nms(boxes, scores, threshold, max_outputs, valid=None, group=None):
    """Indices of the boxes that the greedy algorithm keeps, by falling score."""
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        if valid is not None and not valid[i]:
            continue
        rivals = [j for j in kept if group is None or group[i] == group[j]]
        if all(iou(boxes[i], boxes[j]) <= np.float32(threshold) for j in rivals):
            kept.append(i)
    return kept[:max_outputs]


def match(anchors, objects, regions=(), fg=0.7, bg=0.3, low_quality=True, ioa=0.5, takes_part=None):
    """Labels (1, 0, -1) of the anchors, with the objects and ignore regions given without padding.

    Returns them with the index of each anchor's best object and their IoU, 0 for an anchor that
    does not take part.
    """
    takes_part = np.ones(len(anchors), bool) if takes_part is None else takes_part
    overlaps = pairwise_iou(anchors, objects) * takes_part[:, None]
    labels, index = np.full(len(anchors), -1), np.zeros(len(anchors), int)
    best = np.zeros(len(anchors), np.float32)
    for a in range(len(anchors)):
        if len(objects):
            index[a], best[a] = np.argmax(overlaps[a]), np.max(overlaps[a])
        if best[a] < np.float32(bg):
            labels[a] = 0
        if len(regions) and pairwise_ioa(anchors[a : a + 1], regions).max() > ioa:
            labels[a] = -1
        if best[a] >= np.float32(fg):
            labels[a] = 1
    if low_quality:
        for g in range(len(objects)):
            best_of_object = max(overlaps[:, g], default=0)
            if best_of_object > 0:
                labels[overlaps[:, g] == best_of_object] = 1
    labels[~takes_part] = -1
    return labels, index, best


def decode(anchor, delta):
    width, height = anchor[2] - anchor[0], anchor[3] - anchor[1]
    x = anchor[0] + width / 2 + delta[0] * width
    y = anchor[1] + height / 2 + delta[1] * height
    width, height = (
        side * np.exp(min(log, np.log(1000 / 16)))
        for side, log in zip((width, height), delta[2:], strict=True)
    )
    return np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2], np.float32)


def propose(logits, deltas, anchors, image_hw, pre_nms_top_n, post_nms_top_n, nms_threshold):
    """Boxes, logits and levels of the proposals, from one list entry per level."""
    boxes, scores, level = [], [], []
    for index, (level_logits, level_deltas, level_anchors) in enumerate(
        zip(logits, deltas, anchors, strict=True)
    ):
        centres = (level_anchors[:, :2] + level_anchors[:, 2:]) / 2
        eligible = np.flatnonzero(((centres >= 0) & (centres <= image_hw[::-1])).all(axis=1))
        order = eligible[np.argsort(-level_logits[eligible], kind="stable")][:pre_nms_top_n]
        for i in order:
            box = decode(level_anchors[i], level_deltas[i])
            box = np.clip(box, 0, np.tile(image_hw[::-1], 2))
            if box[2] > box[0] and box[3] > box[1]:
                boxes.append(box)
                scores.append(level_logits[i])
                level.append(index)
    boxes, scores, level = np.array(boxes), np.array(scores), np.array(level)
    kept = nms(boxes, scores, nms_threshold, post_nms_top_n, group=level)
    return boxes[kept], scores[kept], level[kept]


def random_boxes(rng, count, extent=100.0, largest=40.0):
    corner = rng.uniform(0, extent, (count, 2))
    sides = rng.uniform(1, largest, (count, 2))
    return np.concatenate([corner, corner + sides], axis=1).astype(np.float32)


def roi_align(features, boxes, size, scale, ratio=2, aligned=False, max_samples=8):
    """Mean of bilinear samples; `size` is (h, w)."""
    out = np.zeros((len(boxes), *size, features.shape[2]))
    for r, box in enumerate(boxes.astype(np.float64) * scale - (0.5 if aligned else 0)):
        sides = box[2:] - box[:2]
        bin_w, bin_h = (sides if aligned else np.maximum(sides, 1)) / size[::-1]
        count_h, count_w = (
            ratio or int(np.clip(np.ceil(side), 0, max_samples)) for side in (bin_h, bin_w)
        )
        for i, j in np.ndindex(*size):
            for y, x in np.ndindex(count_h, count_w):
                sample = interpolate(
                    features,
                    box[1] + (i + (y + 0.5) / count_h) * bin_h,
                    box[0] + (j + (x + 0.5) / count_w) * bin_w,
                )
                out[r, i, j] += sample / (count_h * count_w)
    return out


def interpolate(features, y, x):
    height, width, _ = features.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0
    y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    y, x = y - top, x - left
    upper = features[top, left] * (1 - x) + features[top, right] * x
    lower = features[bottom, left] * (1 - x) + features[bottom, right] * x
    return upper * (1 - y) + lower * y


def cut_mask(bitmap, box, size):
    """The part of each of size x size cells of a box that an object covers, in 255ths."""

    def parts(start, end, pixels):  # of each pixel in each cell
        edges = np.linspace(start, end, size + 1)
        out = np.zeros((size, pixels))
        for i, j in np.ndindex(out.shape):
            out[i, j] = max(0, min(edges[i + 1], j + 1) - max(edges[i], j))
        return out * size / (end - start)

    rows = parts(box[1], box[3], bitmap.shape[0])
    columns = parts(box[0], box[2], bitmap.shape[1])
    return np.rint(255 * rows @ bitmap @ columns.T).astype(np.uint8)


def crop_mask(mask, gt_box, box, size, max_samples=8):
    """RoIAlign of a mask that is cut to `gt_box`, between zeros."""
    cells = len(mask)
    padded = np.pad(mask / 255, max_samples + 1)[..., None]
    sides = (gt_box[2:] - gt_box[:2]).astype(np.float64)
    x1, y1, x2, y2 = (box - np.tile(gt_box[:2], 2)) * cells / np.tile(sides, 2)
    bin_h, bin_w = (y2 - y1) / size, (x2 - x1) / size
    count_h, count_w = (int(np.clip(np.ceil(side), 1, max_samples)) for side in (bin_h, bin_w))
    out = np.zeros((size, size))
    for i, j in np.ndindex(out.shape):
        for y, x in np.ndindex(count_h, count_w):
            place = (
                y1 + (i + (y + 0.5) / count_h) * bin_h - 0.5,
                x1 + (j + (x + 0.5) / count_w) * bin_w - 0.5,
            )
            sample = interpolate(padded, *(np.array(place) + max_samples + 1))
            out[i, j] += np.squeeze(sample) / (count_h * count_w)
    return out


def roi_pool(features, boxes, size, scale, d_out=None):
    """Maxima of bins, or with their gradient that of the features; `size` is (h, w)."""
    height, width, channels = features.shape
    out, d_features = np.zeros((len(boxes), *size, channels)), np.zeros(features.shape)
    for r, box in enumerate(boxes):
        x1, y1, x2, y2 = (int(np.sign(x) * np.floor(abs(x) + 0.5)) for x in box * scale)
        bin_h, bin_w = max(y2 - y1 + 1, 1) / size[0], max(x2 - x1 + 1, 1) / size[1]
        for i, j, c in np.ndindex(*size, channels):
            best = None
            for y in range(int(np.floor(i * bin_h)) + y1, int(np.ceil((i + 1) * bin_h)) + y1):
                for x in range(int(np.floor(j * bin_w)) + x1, int(np.ceil((j + 1) * bin_w)) + x1):
                    inside = 0 <= y < height and 0 <= x < width
                    if inside and (best is None or features[y, x, c] > features[*best, c]):
                        best = y, x
            if best is not None:
                out[r, i, j, c] = features[*best, c]
                if d_out is not None:
                    d_features[*best, c] += d_out[r, i, j, c]
    return out if d_out is None else d_features
