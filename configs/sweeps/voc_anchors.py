"""The paper's Table 8: anchors of 1 or 3 sizes and 1 or 3 aspect ratios, at a reduced scale.

    python -m rpn_jax sweep --sweep=configs/sweeps/voc_anchors.py --out=runs/voc_anchors \
        --config.data.source=FOLDER --config.model.pretrained=vgg16.npz

Twelve runs, as reduced as those of `voc_lambda.py`, whose `FULL` makes this the paper's own study
too. 3x1 is 3 sizes of 1 aspect ratio. Of the two single sizes in the table this has the larger,
256 of an image of 600 pixels.

Expected time and score: not run.
"""

from voc_lambda import CONFIG, FULL, REDUCED, scaled

from rpn_jax.sweeps.definition import Sweep, seeds, settings


def get_sweep():
    def anchors(sizes, aspect_ratios):
        return {"anchors.sizes": sizes, "anchors.aspect_ratios": aspect_ratios}

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
    )
