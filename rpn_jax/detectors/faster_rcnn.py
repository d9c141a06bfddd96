"""Faster R-CNN: the RPN's proposals, and a second stage that classifies and refines them.

Both stages are trained together, on the same features, in one step: the "approximate joint
training" of the paper's section 3.2, in which no gradient flows through the proposals' boxes; or,
with the `box_gradient` of its second stage, the one in which it does.
"""

import dataclasses
from collections.abc import Sequence

import jax
from jaxtyping import Float, Key

from rpn_jax.detectors.box import BoxStage
from rpn_jax.detectors.detector import Found, Losses, Variables
from rpn_jax.detectors.fast_rcnn import FastRCNN
from rpn_jax.detectors.rpn import RPN, Look
from rpn_jax.typing import Array, Detections, Images


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

    def fast(self) -> FastRCNN:
        """Returns the second stage, as a detector of its own."""
        return FastRCNN(self.network, self.boxes, self.pixels)

    def predict(  # type: ignore[override]
        self, variables: Variables, images: Array, image_hw: Float[Array, "B 2"]
    ) -> Detections:
        """Returns each image's detections."""
        look = self.look(variables, images, image_hw)
        proposals = self.proposals_of(look, image_hw, self.proposals.test)
        return self.fast().detections_of(look.levels, variables, proposals, image_hw)

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
        if self.proposals.measured.pre_nms_top_n == self.proposals.test.pre_nms_top_n:
            # The best of those that are measured, for which no second NMS is needed.
            count = self.proposals.test.post_nms_top_n
            used = jax.tree.map(lambda array: array[:, :count], measured)
        else:
            used = self.without(look, keys, batch, without, self.proposals.test)
        detections = self.fast().detections_of(look.levels, variables, used, batch.image_hw)
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
        counts, box_gradient = self.proposals.train, self.boxes.box_gradient
        proposals = self.proposals_of(look, batch.image_hw, counts, box_gradient=box_gradient)
        second, parts = self.fast().losses_of(
            look.levels, variables, keys, proposals, batch.ground_truth, train=train
        )
        total = first.of_image + second
        return first._replace(of_image=total, parts={**first.parts, **parts, "loss": total})
