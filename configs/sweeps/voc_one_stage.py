r"""The paper's Table 10: a detector on dense sliding windows against one on proposals; reduced.

    W='--config.data.source=FOLDER --config.rpn.anchors.sizes=(85.0,171.0,341.0)'
    C="--config=voc_folder_vgg16 $W"
    rpn-jax train $C --config.model.pretrained=vgg16.pth --workdir=runs/rpn
    for SPLIT in trainval test; do
      rpn-jax propose --workdir=runs/rpn --split=$SPLIT --settings=train --format=npz \
          --out=proposals/$SPLIT
      rpn-jax anchors $C --split=$SPLIT --write=windows/$SPLIT.npz
    done
    rpn-jax sweep --sweep=voc_one_stage --out=runs/voc_one_stage \
        --config.data.source=FOLDER --config.model.pretrained=vgg16.pth

Four Fast R-CNNs. Those of two stages are trained on the 2000 best proposals of an RPN that shares
nothing with them, and tested on 300; those of one stage on all windows of 3 sizes and 3 aspect
ratios, at most 9450 an image. The RPN has the same anchors. `FULL` of `voc_lambda.py` makes it VOC
2007 at the paper's size, with a `C` of `voc07_vgg16` and no `W`: that is 22 000 windows an image,
108 million for the 5011 of trainval, which take about 10 GB of memory to read.

The published figures are of ZF; the 53.9 of one stage are of features of an image pyramid of five
scales, which is not built here.

Reduced, AP50 in %, two seeds: 28.4 ± 1.6 with proposals, 12.7 ± 1.2 with windows; the order is the
paper's. On one core of an AMD EPYC beside other work the RPN, its proposals and the windows took
ten minutes and the sweep 25, most of them the 9450 regions of each test image.
"""

from rpn_jax.configs import voc07_faster_rcnn_vgg16, voc_folder_faster_rcnn_vgg16
from rpn_jax.configs.sweeps.voc_lambda import FULL
from rpn_jax.sweeps.definition import Published, Sweep, seeds, settings

WINDOWS = 22_000 if FULL else 9450  # of an image, at most
TABLE_10 = Published(
    source="Ren et al., table 10 (Fast R-CNN, ZF, VOC 2007 test)",
    figure="mAP",
    values={"two-stage": 58.7, "one-stage": 53.9},
)


def get_config():
    """Returns the Fast R-CNN of both: the second stage of the Faster R-CNN on these data."""
    parent = voc07_faster_rcnn_vgg16 if FULL else voc_folder_faster_rcnn_vgg16
    config = parent("fast_rcnn")
    config.evaluation.every = 0
    config.evaluation.batch_size = 1
    return config


def get_sweep():
    def stored(train, evaluated, train_top_n, eval_top_n):
        numbers = {"train_top_n": train_top_n, "eval_top_n": eval_top_n}
        files = {"train": train, "eval": evaluated}
        return {f"data.proposals.{name}": value for name, value in (files | numbers).items()}

    two = stored("proposals/trainval/proposals.npz", "proposals/test/proposals.npz", 2000, 300)
    one = stored("windows/trainval.npz", "windows/test.npz", WINDOWS, WINDOWS)
    return Sweep(
        config=__file__,
        axes=[settings({"two-stage": two, "one-stage": one}), seeds(2)],
        published=TABLE_10,
    )
