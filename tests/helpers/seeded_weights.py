"""Weights that any program can make again from the names and shapes of a state dict alone."""

import zlib

import numpy as np

# The seeded features of a deep feature pyramid reach 10,000: these bring its objectness to about 1
# and its deltas to about 0.2.
# The class logits reach about 5, so that several classes are likely, box deltas about 2, and the
# logits of masks about 5.
LAST_LAYERS = {
    "rpn.head.cls_logits": 1e-4,
    "rpn.head.bbox_pred": 2e-5,
    "roi_heads.box_predictor.cls_score": 3e-4,
    "roi_heads.box_predictor.bbox_pred": 1e-4,
    "roi_heads.mask_predictor.mask_fcn_logits": 3e-4,
}


def seeded_array(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns float32 values that keep the activations of a deep network near 1."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if len(shape) in (2, 4):  # a kernel, out, in, height, width
        values = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    elif name.endswith(("running_var", "weight")):
        values = rng.uniform(0.6, 1.4, shape)
    else:
        values = 0.2 * rng.standard_normal(shape)
    return (values * LAST_LAYERS.get(name.rpartition(".")[0], 1)).astype(np.float32)


def seeded_image(height: int, width: int) -> np.ndarray:
    """Returns an image as a network sees it, (height, width, 3) float32 around 0."""
    rng = np.random.default_rng([height, width])
    return rng.standard_normal((height, width, 3)).astype(np.float32)
