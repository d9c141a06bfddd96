"""Faster R-CNN: the RPN's proposals, and a second stage that classifies and refines them.

Both stages are trained together, on the same features, in one step: the "approximate joint
training" of the paper's section 3.2, in which no gradient flows through the proposals' boxes.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from jaxtyping import Float, Key

from rpn_jax.detectors.box import BoxStage
from rpn_jax.detectors.detector import Found, Losses, Variables
from rpn_jax.detectors.rpn import RPN, Look
from rpn_jax.models.rcnn import RCNN
from rpn_jax.typing import Array, Detections, Images, Proposals

# What an image's key is folded with, so that each use of it draws its own numbers.
_SAMPLE, _DROPOUT = 1, 2


@dataclasses.dataclass(frozen=True)
class FasterRCNN(RPN):
    """The network with a box head: what it finds are detections. See `detector.Detector`.

    Fields beside `RPN`'s:
      boxes: the second stage.
    """

    boxes: BoxStage

    def rpn(self) -> RPN:
        """Returns the first stage, as a detector of its own."""
        return RPN(self.network, self.proposals, self.pixels)

    def predict(  # type: ignore[override]
        self, variables: Variables, images: Array, image_hw: Float[Array, "B 2"]
    ) -> Detections:
        """Returns each image's detections."""
        look = self.look(variables, images, image_hw)
        proposals = self.proposals_of(look, image_hw, self.proposals.test)
        return self.detections_of(look, variables, proposals, image_hw)

    def assess(
        self,
        variables: Variables,
        keys: Key[jax.Array, " B"],
        batch: Images,
        without: Sequence[str] = (),
    ) -> tuple[Found, Losses]:
        """Returns each image's proposals and detections, and what it costs; see `RPN.assess`."""
        look = self.look(variables, batch.images, batch.image_hw, batch.features)
        losses = self.losses_of(look, keys, batch, variables)
        measured = self.without(look, keys, batch, without, self.proposals.measured)
        used = self.without(look, keys, batch, without, self.proposals.test)
        detections = self.detections_of(look, variables, used, batch.image_hw)
        return Found(measured, detections), losses

    def losses_of(
        self,
        look: Look,
        keys: Key[jax.Array, " B"],
        batch: Images,
        variables: Variables | None = None,
        *,
        train: bool = False,
    ) -> Losses:
        """Returns what both stages cost of a batch of which the network says `look`."""
        assert variables is not None
        first = super().losses_of(look, keys, batch, variables, train=train)
        proposals = self.proposals_of(look, batch.image_hw, self.proposals.train)
        regions = jax.vmap(self.boxes.sample)(_folded(keys, _SAMPLE), proposals, batch.ground_truth)
        dropout = _folded(keys, _DROPOUT) if train else None
        logits, deltas = self.classify(look, variables, regions.boxes, dropout)
        second, parts = jax.vmap(self.boxes.loss_of)(logits, deltas, regions, batch.ground_truth)
        total = first.of_image + second
        return first._replace(of_image=total, parts={**first.parts, **parts, "loss": total})

    def detections_of(
        self, look: Look, variables: Variables, proposals: Proposals, image_hw: Array
    ) -> Detections:
        """Returns the detections among the proposals of images of which the network says `look`."""
        logits, deltas = self.classify(look, variables, proposals.boxes)
        return jax.vmap(self.boxes.detect)(logits, deltas, proposals, image_hw)

    def classify(
        self,
        look: Look,
        variables: Variables,
        boxes: Float[Array, "B R 4"],
        dropout: Key[jax.Array, " B"] | None = None,
    ) -> tuple[Array, Array]:
        """Returns what the box head says of boxes; with the keys `dropout` it drops units out."""
        levels = look.levels[: len(self.network.pooled_strides)]
        pooled = jax.vmap(self.boxes.pool)(levels, boxes)
        outputs: Any = self.network.apply(variables, pooled, dropout, method=RCNN.classify)
        return outputs


def _folded(keys: Key[jax.Array, " B"], number: int) -> Key[jax.Array, " B"]:
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
