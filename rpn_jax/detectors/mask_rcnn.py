"""Mask R-CNN: Faster R-CNN, and a third stage that makes the masks of what it detects.

It is trained on the regions of the second stage's sample that cover objects, and used on the
detections, at their refined boxes (arXiv 1703.06870, section 3.1).
"""

import dataclasses
from typing import Any

import jax
from jaxtyping import Float, Key

from rpn_jax.detectors.detector import Variables
from rpn_jax.detectors.fast_rcnn import FastRCNN
from rpn_jax.detectors.faster_rcnn import FasterRCNN
from rpn_jax.detectors.mask import MaskStage
from rpn_jax.models.rcnn import RCNN, Levels
from rpn_jax.typing import Array, Detections, GroundTruth, Proposals, Regions


@dataclasses.dataclass(frozen=True)
class FastMaskRCNN(FastRCNN):
    """The second and the third stage, on given proposals. See `detector.Detector`.

    Fields beside `FastRCNN`'s:
      masks: the third stage.
    """

    masks: MaskStage

    def losses_of_regions(
        self,
        levels: Levels,
        variables: Variables,
        regions: Regions,
        ground_truth: GroundTruth,
        dropout: Key[jax.Array, " B"] | None,
    ) -> tuple[Float[Array, " B"], dict[str, Array]]:
        """Returns what both stages cost of those regions, and what is logged of each image."""
        second, parts = super().losses_of_regions(levels, variables, regions, ground_truth, dropout)
        regions = jax.vmap(self.masks.sample)(regions)
        logits = self.segment(levels, variables, regions)
        third, more = jax.vmap(self.masks.loss_of)(logits, regions, ground_truth)
        return second + third, {**parts, **more}

    def detections_of(
        self, levels: Levels, variables: Variables, proposals: Proposals, image_hw: Array
    ) -> Detections:
        """Returns the detections among the proposals, with masks."""
        found = super().detections_of(levels, variables, proposals, image_hw)
        return jax.vmap(self.masks.paint)(self.segment(levels, variables, found), found)

    def segment(
        self, levels: Levels, variables: Variables, regions: Regions | Detections
    ) -> Float[Array, "B R M M"]:
        """Returns the logits of the masks of boxes, as objects of their classes."""
        pooled = jax.vmap(self.masks.pool)(self.pooled(levels), regions.boxes)
        logits: Any = self.network.apply(variables, pooled, regions.labels, method=RCNN.segment)
        return logits


@dataclasses.dataclass(frozen=True)
class MaskRCNN(FasterRCNN):
    """The network with a mask head: its detections have masks. See `detector.Detector`.

    Fields beside `FasterRCNN`'s:
      masks: the third stage.
    """

    masks: MaskStage

    def fast(self) -> FastMaskRCNN:
        """Returns the second and the third stage, as a detector of their own."""
        return FastMaskRCNN(self.network, self.boxes, self.pixels, self.masks)
