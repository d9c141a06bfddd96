"""Detections as YOLO's text files, which the dataset `yolo` and Ultralytics read."""

import json
from collections.abc import Sequence

import numpy as np

from rpn_jax.training.predict import PredictedImage


def yolo_rows(image: PredictedImage) -> str:
    """Returns a line for each box, `class cx cy w h score`, in fractions of the image's sides.

    Classes count from 0; proposals are all of class 0.
    """
    assert image.pixels is not None
    height, width = image.pixels.shape[:2]
    corners = np.asarray(image.boxes, np.float64) / (width, height, width, height)
    left_top, right_bottom = corners[:, :2], corners[:, 2:]
    fractions = np.concatenate([(left_top + right_bottom) / 2, right_bottom - left_top], axis=1)
    labels = np.zeros(len(corners), int) if image.labels is None else image.labels
    return "".join(
        f"{label} {' '.join(f'{value:.8f}' for value in row)} {score:.6f}\n"
        for label, row, score in zip(labels, fractions, image.scores, strict=True)
    )


def yolo_config(names: Sequence[str]) -> str:
    """Returns a `data.yaml` of these classes, for labels in `labels` and images in `images`."""
    classes = "".join(f"  {i}: {json.dumps(name)}\n" for i, name in enumerate(names))
    return f"path: .\ntrain: images\nval: images\nnames:\n{classes}"
