"""The paper's Table 8: anchors of 1 or 3 sizes and 1 or 3 aspect ratios, at a reduced scale.

    rpn-jax sweep --sweep=voc_anchors --out=runs/voc_anchors \
        --config.data.source=FOLDER --config.model.pretrained=vgg16.pth

Twelve runs, as reduced as those of `voc_lambda.py`, whose `FULL` makes this the paper's own study
too. 3x1 is 3 sizes of 1 aspect ratio; the single size is 256, for images of 600 pixels.

Two minutes a run on one core, and 8 once for the features. The figures below are of an EARLIER
weight file, whose conv5 was close to random, and of an earlier recipe (learning rate 1e-4,
positives from an IoU of 0.6); the sweep was not run again. On 198 photographs (509 objects) that no
run has seen, mean and deviation over the seeds in per cent, beside the paper's mAP of its detector
with VGG-16:

             AR@100      AR@300     AR@1000  recall@0.5  recall@0.7  paper's mAP
    1x1  19.1 ± 0.5  19.4 ± 0.3  19.4 ± 0.3  49.1 ± 0.9  19.2 ± 0.5         66.7
    1x3  22.0 ± 0.3  26.5 ± 0.1  27.1 ± 0.3  60.2 ± 1.0  29.0 ± 1.1         67.9
    3x1  23.4 ± 0.2  28.8 ± 0.4  30.5 ± 0.4  72.7 ± 0.2  27.0 ± 1.9         69.8
    3x3  23.7 ± 0.6  30.1 ± 0.8  35.8 ± 0.7  69.9 ± 0.8  32.9 ± 1.0         69.9

The order is the paper's: sizes matter more than ratios, and of 3x3 and 3x1 neither is better by
more than noise at AR@100 and AR@300. Among 1000 proposals aspect ratios bring 5.3 points (95 %
interval 3.5 to 7.1). A single anchor at each position leaves 140 proposals an image after NMS.
"""

from rpn_jax.configs.sweeps.voc_lambda import CONFIG, FULL, REDUCED, scaled
from rpn_jax.sweeps.definition import Published, Sweep, seeds, settings

TABLE_8 = Published(
    source="Ren et al., table 8 (Faster R-CNN, VGG-16, VOC 2007 test)",
    figure="mAP",
    values={"1x1": 66.7, "1x3": 67.9, "3x1": 69.8, "3x3": 69.9},
    ours="AR@300",  # of an RPN alone; a detector has AP50
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
            seeds(3),
        ],
        base="3x3",
        published=TABLE_8,
    )
