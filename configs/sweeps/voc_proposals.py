"""The paper's Table 2: proposals at test time, without NMS, ranking or regression; reduced.

    rpn-jax sweep --sweep=voc_proposals --out=runs/voc_proposals \
        --config.data.source=FOLDER --config.model.pretrained=vgg16.pth

Two Faster R-CNNs, of which each is trained once, jointly, and measured in nine ways: with 100,
300 or 1000 proposals; with the 6000 best anchors' boxes, without NMS; with anchors that are drawn
at random; with the anchors themselves in place of refined boxes. `FULL` of `voc_lambda.py` makes it
VOC 2007 at the paper's size.

The published figures are those of the ablations in Table 2: a Fast R-CNN with ZF, trained on
selective search's proposals, that is given those of an RPN which shares no features with it. Here
both stages share their features and the detector knows such proposals from its training, so that
the order of the settings can be compared and the figures cannot. The rows of Table 2 for selective
search and EdgeBoxes need their proposals, and a `fast_rcnn`.

Reduced, two seeds, AP50 in %: 32.7, 25.7, 20.1 with 100, 300, 1000 proposals, 21.3 without NMS,
23.0, 25.8, 22.4 without ranking, 22.8, 16.8 without regression. More proposals make this detector,
which was trained shortly, worse (docs/reproduction.md). 34 minutes on one core of an AMD EPYC.
"""

from rpn_jax.configs.sweeps.voc_lambda import FULL
from rpn_jax.sweeps.definition import Published, Sweep, seeds, settings

TABLE_2 = Published(
    source="Ren et al., table 2 (Fast R-CNN, ZF, VOC 2007 test)",
    figure="mAP",
    values={
        "100": 55.1,
        "300": 56.8,
        "1000": 56.3,
        "6000-no-NMS": 55.2,
        "100-no-cls": 44.6,
        "300-no-cls": 51.4,
        "1000-no-cls": 55.8,
        "300-no-reg": 52.1,
        "1000-no-reg": 51.3,
    },
)


def proposals(number, **without):
    """Returns an evaluation with so many proposals, of at least as many anchors."""
    counts = {"pre_nms_top_n": max(number, 6000), "post_nms_top_n": number}
    return without | {f"rpn.proposals.test.{name}": count for name, count in counts.items()}


def get_sweep():
    return Sweep(
        config="voc07_faster_rcnn_vgg16" if FULL else "voc_folder_faster_rcnn_vgg16",
        # The counts of the paper, with which the evaluation of the config as it is has 300.
        fixed={**proposals(300), "evaluation.every": 0},
        axes=[seeds(2)],
        evaluations=settings(
            {
                "100": proposals(100),
                "300": {},
                "1000": proposals(1000),
                "6000-no-NMS": {**proposals(6000, without="nms"), "evaluation.batch_size": 1},
                "100-no-cls": proposals(100, without="ranking"),
                "300-no-cls": proposals(300, without="ranking"),
                "1000-no-cls": proposals(1000, without="ranking"),
                "300-no-reg": proposals(300, without="regression"),
                "1000-no-reg": proposals(1000, without="regression"),
            }
        ),
        published=TABLE_2,
    )
