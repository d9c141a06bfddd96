"""The paper's Table 8: anchors of 1 or 3 sizes and 1 or 3 aspect ratios, at a reduced scale.

    rpn-jax sweep --sweep=voc_anchors --out=runs/voc_anchors \
        --config.data.source=FOLDER --config.model.pretrained=vgg16.pth

Eight Faster R-CNNs, as reduced as those of `voc_lambda.py`, whose `FULL` makes this the paper's own
study too. 3x1 is 3 sizes of 1 aspect ratio; the single size is 256, for images of 600 pixels.

AP50 in per cent, two seeds: 25.5, 22.2, 21.8 and 18.7 in the order below, the paper's order
reversed; the proposals' AR@300 is 32.2, 36.7, 36.3 and 39.1. 26 minutes on one core of an AMD EPYC.
"""

from rpn_jax.configs.sweeps.voc_lambda import CONFIG, FULL, REDUCED, scaled
from rpn_jax.sweeps.definition import Published, Sweep, seeds, settings

TABLE_8 = Published(
    source="Ren et al., table 8 (Faster R-CNN, VGG-16, VOC 2007 test)",
    figure="mAP",
    values={"1x1": 66.7, "1x3": 67.9, "3x1": 69.8, "3x3": 69.9},
)


def get_sweep():
    def anchors(sizes, aspect_ratios):
        return {"rpn.anchors.sizes": sizes, "rpn.anchors.aspect_ratios": aspect_ratios}

    one, three = scaled(256), scaled(128, 256, 512)
    square, ratios = (1.0,), (0.5, 1.0, 2.0)
    return Sweep(
        config=CONFIG,
        fixed={} if FULL else REDUCED,
        axes=[
            settings(
                {
                    "1x1": anchors(one, square),
                    "1x3": anchors(one, ratios),
                    "3x1": anchors(three, square),
                    "3x3": anchors(three, ratios),
                }
            ),
            seeds(2),
        ],
        base="3x3",
        published=TABLE_8,
    )
