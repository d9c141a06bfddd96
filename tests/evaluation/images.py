"""Random images with proposals, or detections, and objects."""

import numpy as np

from rpn_jax.evaluation.detections import ImageDetections
from rpn_jax.evaluation.recall import ImageProposals


def random_images(seed, shapes):
    """Images of (proposals, objects); boxes on a grid and few scores, so that much is equal."""
    rng = np.random.default_rng(seed)
    images = []
    for image_id, (P, G) in enumerate(shapes, start=7):
        corner, size = rng.integers(0, 12, (G, 2)) * 8, rng.integers(1, 20, (G, 2)) * 8
        gt_boxes = np.concatenate([corner, corner + size], axis=1).astype(np.float32)
        near = gt_boxes[rng.integers(0, G, P)] if G else np.full((P, 4), 50, np.float32)
        boxes = near + rng.integers(-2, 3, (P, 4)).astype(np.float32) * 4
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])
        scores = rng.integers(0, 20, P).astype(np.float32) / 20
        ignore = rng.random(G) < 0.25
        areas = size.prod(axis=1).astype(np.float32) * rng.choice([0.5, 1.0], G).astype(np.float32)
        images.append(ImageProposals(image_id, boxes, scores, gt_boxes, ignore, areas))
    return images


def random_detections(seed, shapes, num_classes=3):
    """Images of (detections, objects) as above; three of four detections have their object's class.

    Detections have the classes 0 to num_classes - 1, objects those from 1 on, so that the first
    class has no object.
    """
    rng = np.random.default_rng([seed, 1])
    images = []
    for image in random_images(seed, shapes):
        P, G = len(image.boxes), len(image.gt_boxes)
        gt_labels = rng.integers(1, num_classes, G)
        labels = rng.integers(0, num_classes, P)
        if G:
            corners = np.abs(image.boxes[:, None] - image.gt_boxes).sum(axis=-1)
            labels = np.where(rng.random(P) < 0.75, gt_labels[corners.argmin(axis=1)], labels)
        image_id, boxes, scores, gt_boxes, *annotated = image
        images.append(
            ImageDetections(image_id, boxes, scores, labels, gt_boxes, gt_labels, *annotated)
        )
    return images
