"""The evaluation and prediction steps: each device's work on its share of a batch."""

import functools
from collections.abc import Callable, Sequence

import jax

from rpn_jax.detectors.detector import Detector
from rpn_jax.typing import Images


def make_eval_step(detector: Detector, without: Sequence[str] = ()) -> Callable:
    """Returns `(variables, batch, key) -> (found, parts, labels)` for each image of a share.

    `found` is the detector's output, `parts` the parts of the loss, `labels` the anchors' sampled
    labels. The run's key and the image's index in the split determine the sample, so that the
    validation loss of a state does not depend on the batches. For `without` see the detector's
    `assess`.
    """

    def eval_step(variables, batch: Images, key: jax.Array):
        key_of = functools.partial(jax.random.fold_in, jax.random.fold_in(key, 2))
        keys = jax.vmap(key_of)(batch.image_index)
        found, losses = detector.assess(variables, keys, batch, without)
        return found, losses.parts, losses.labels

    return eval_step


def make_predict_step(detector: Detector) -> Callable:
    """Returns `(variables, (images, image_hw)) -> found`, for images without annotations."""

    def predict_step(variables, batch):
        return detector.predict(variables, *batch)

    return predict_step
