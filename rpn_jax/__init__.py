"""Faster R-CNN in JAX and Flax (Ren, He, Girshick, Sun, arXiv 1506.01497), and its RPN alone.

Also with masks, as Mask R-CNN (He, Gkioxari, Dollár, Girshick, arXiv 1703.06870).

    import rpn_jax

    model = rpn_jax.load("runs/shapes")  # or a model file
    boxes, scores, _ = model.propose("photo.jpg")
    model = rpn_jax.load("runs/shapes_faster_rcnn")
    boxes, scores, labels, names, _ = model.detect("photo.jpg")
    model = rpn_jax.load("runs/shapes_mask_rcnn")
    boxes, scores, labels, names, masks, _ = model.detect("photo.jpg")

JAX is imported by what needs it, not by `import rpn_jax`.
"""

import importlib

__version__ = "0.2.0.dev0"
__all__ = ["Detected", "Found", "Model", "Segmented", "UserError",
           "configs", "import_path", "load", "paste_masks", "prepare", "train"]  # fmt: skip

_HOMES = {
    "Detected": "rpn_jax.trained.model",
    "Found": "rpn_jax.trained.model",
    "Model": "rpn_jax.trained.model",
    "Segmented": "rpn_jax.trained.model",
    "UserError": "rpn_jax.errors",
    "import_path": "rpn_jax.parts",
    "load": "rpn_jax.trained.model",
    "paste_masks": "rpn_jax.evaluation.masks",
    "prepare": "rpn_jax.library",
    "train": "rpn_jax.library",
}


def __getattr__(name):
    if name == "configs":
        return importlib.import_module("rpn_jax.configs")
    if name not in _HOMES:
        raise AttributeError(f"module 'rpn_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__():
    return sorted({*globals(), *__all__})
