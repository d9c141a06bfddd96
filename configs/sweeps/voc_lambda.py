"""The paper's Table 9: the balance λ of the RPN's two losses, with two seeds, at a reduced scale.

    rpn-jax sweep --sweep=voc_lambda --out=runs/voc_lambda \
        --config.data.source=FOLDER --config.model.pretrained=vgg16.pth

Eight Faster R-CNNs of 600 steps of two images of half the paper's size, on a small folder of VOC
photographs. The backbone is frozen: its features of each image are computed once, for all runs, and
a step trains the heads alone. `FULL` makes this, and `voc_anchors.py`, the paper's own study.

AP50 in per cent, two seeds: 20.1, 18.3, 20.1 and 18.3 with λ of 0.1, 1, 10 and 100, no difference
more than noise. 26 minutes on one core of an AMD EPYC.
"""

from rpn_jax.sweeps.definition import Published, Sweep, grid, seeds

FULL = False  # all of VOC 2007, at the paper's size and length

TABLE_9 = Published(
    source="Ren et al., table 9 (Faster R-CNN, VGG-16, VOC 2007 test)",
    figure="mAP",
    values={
        "rpn.loss.balance=0.1": 67.2,
        "rpn.loss.balance=1": 68.9,
        "rpn.loss.balance=10": 69.9,
        "rpn.loss.balance=100": 69.1,
    },
)

CONFIG = "voc07_faster_rcnn_vgg16" if FULL else "voc_folder_faster_rcnn_vgg16"
SHORTER_SIDE = 600 if FULL else 300
REDUCED = {
    "data.shorter_side": SHORTER_SIDE,
    "data.longer_side": 500,
    "model.frozen_stages": 5,
    "data.cache_features": True,
    "steps": 600,
    "optimizer.warmup_steps": 60,
    "evaluation.every": 0,  # the sweep evaluates each run after its last step
    "checkpoint.every": 300,
}


def scaled(*sizes):
    """Returns sizes of anchors that are given for images of 600 pixels."""
    return tuple(size * SHORTER_SIDE / 600 for size in sizes)


def get_sweep():
    # The λ of equation 1, which counts locations where py-faster-rcnn counts the sampled anchors.
    paper = {"rpn.loss.normalizer": "paper"}
    reduced = {"rpn.anchors.sizes": scaled(128, 256, 512), **REDUCED}
    return Sweep(
        config=CONFIG,
        fixed=paper if FULL else paper | reduced,
        axes=[grid({"rpn.loss.balance": (0.1, 1.0, 10.0, 100.0)}), seeds(2)],
        base="rpn.loss.balance=10",
        published=TABLE_9,
    )
