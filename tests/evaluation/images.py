"""Random images with proposals and objects, for the tests of recall."""

import numpy as np

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
