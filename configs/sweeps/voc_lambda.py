"""The paper's Table 9: the balance λ of the two losses, with three seeds, at a reduced scale.

    python -m rpn_jax sweep --sweep=configs/sweeps/voc_lambda.py --out=runs/voc_lambda \
        --config.data.source=FOLDER --config.model.pretrained=vgg16.npz

Twelve runs of 900 steps of one image of half the paper's size, on a small folder of VOC
photographs. The whole backbone stays as it is: its features of each image are computed once, for
all runs, and a step trains the head alone. `FULL` makes this, and `voc_anchors.py`, the paper's own
study. An image has about 600 positions here in place of 2400, so that the same λ gives the boxes
four times the weight.

Expected time and score: not run.
"""

from rpn_jax.sweeps.definition import Sweep, grid, seeds

FULL = False  # all of VOC 2007, at the paper's size and length

CONFIG = "configs/voc07_vgg16.py" if FULL else "configs/voc_folder_vgg16.py"
SHORTER_SIDE = 600 if FULL else 300
REDUCED = {
    "data.shorter_side": SHORTER_SIDE,
    "data.longer_side": 500,
    "model.frozen_stages": 5,
    "data.cache_features": True,
    "steps": 900,
    "optimizer.warmup_steps": 90,
    "evaluation.every": 0,  # the sweep evaluates each run after its last step
    "checkpoint.every": 300,
}


def scaled(*sizes):
    """Returns sizes of anchors that are given for images of 600 pixels."""
    return tuple(size * SHORTER_SIDE / 600 for size in sizes)


def get_sweep():
    reduced = {"anchors.sizes": scaled(128, 256, 512), "loss.normalizer": "paper", **REDUCED}
    return Sweep(
        config=CONFIG,
        fixed={} if FULL else reduced,
        axes=[grid({"loss.balance": (0.1, 1.0, 10.0, 100.0)}), seeds(3)],
        base="loss.balance=10",
    )
