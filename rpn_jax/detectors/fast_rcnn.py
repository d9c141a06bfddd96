"""Fast R-CNN (arXiv 1504.08083): the second stage alone, on proposals that come with the images.

It is also the half of Faster R-CNN behind the RPN, which hands it proposals and feature maps.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Key

from rpn_jax.detectors.box import BoxStage
from rpn_jax.detectors.detector import Detector, Found, Losses, Variables
from rpn_jax.errors import UserError
from rpn_jax.models.inputs import InputConvention, normalize_images
from rpn_jax.models.rcnn import RCNN, Levels
from rpn_jax.typing import Array, Detections, GroundTruth, Images, Proposals, Regions

# What an image's key is folded with, so that each use of it draws its own numbers.
_SAMPLE, _DROPOUT = 1, 2


@dataclasses.dataclass(frozen=True)
class FastRCNN:
    """A network with a box head, which classifies and refines given proposals.

    See `detector.Detector`.

    Fields:
      network: with a `box` part.
      boxes: its stage.
      pixels: what the network expects of them.
    """

    network: RCNN
    boxes: BoxStage
    pixels: InputConvention

    def with_counts(self, name: str) -> "FastRCNN":
        """Returns the detector itself: who gives the proposals chooses their number."""
        del name
        return self

    def rpn(self) -> Detector:
        """Raises a `UserError`: there is no first stage."""
        raise UserError("a Fast R-CNN has no RPN; propose with the one that its proposals are of")

    def anchors(self, height: int, width: int) -> Levels:
        """Returns nothing: there is no anchor."""
        del height, width
        return ()

    def losses(
        self, variables: Variables, keys: Key[jax.Array, " B"], batch: Images, *, train: bool
    ) -> Losses:
        """Returns what the batch costs; its proposals are those that come with it."""
        levels, batch_stats = self.levels(variables, batch.images, batch.image_hw, batch, train)
        return self._losses(levels, batch_stats, variables, keys, batch, train)

    def predict(
        self,
        variables: Variables,
        images: Array,
        image_hw: Float[Array, "B 2"],
        proposals: Proposals | None = None,
    ) -> Detections:
        """Returns each image's detections among its proposals, in pixels of the network's input."""
        assert proposals is not None, "a Fast R-CNN needs proposals"
        levels, _ = self.levels(variables, images, image_hw)
        return self.detections_of(levels, variables, proposals, image_hw)

    def assess(
        self,
        variables: Variables,
        keys: Key[jax.Array, " B"],
        batch: Images,
        without: Sequence[str] = (),
    ) -> tuple[Found, Losses]:
        """Returns each image's given proposals, its detections, and what it costs."""
        assert batch.proposals is not None
        assert not without, "there is no RPN to leave parts out of"
        levels, batch_stats = self.levels(variables, batch.images, batch.image_hw, batch)
        losses = self._losses(levels, batch_stats, variables, keys, batch, train=False)
        detections = self.detections_of(levels, variables, batch.proposals, batch.image_hw)
        return Found(batch.proposals, detections), losses

    def levels(
        self,
        variables: Variables,
        images: Array,
        image_hw: Float[Array, "B 2"],
        batch: Images | None = None,
        train: bool = False,
    ) -> tuple[Levels, Any]:
        """Returns the feature maps, and the statistics after them; `batch` may know features."""
        images = normalize_images(images, image_hw, self.pixels)
        levels, updated = self.network.apply(
            variables,
            images,
            features=batch.features if batch else None,
            train=train,
            mutable=["batch_stats"] if train else [],
            method=RCNN.levels,
        )
        return levels, updated.get("batch_stats", variables.get("batch_stats", {}))

    def _losses(self, levels, batch_stats, variables, keys, batch: Images, train) -> Losses:
        assert batch.proposals is not None
        loss, parts = self.losses_of(
            levels, variables, keys, batch.proposals, batch.ground_truth, train=train
        )
        no_anchors = jnp.zeros((len(loss), 0), jnp.int32)
        return Losses(loss, {"loss": loss, **parts}, batch_stats, no_anchors)

    def losses_of(
        self, levels: Levels, variables: Variables, keys, proposals, ground_truth, *, train: bool
    ) -> tuple[Float[Array, " B"], dict[str, Array]]:
        """Returns what images of those feature maps cost, and what is logged of each."""
        regions = jax.vmap(self.boxes.sample)(_folded(keys, _SAMPLE), proposals, ground_truth)
        dropout = _folded(keys, _DROPOUT) if train else None
        return self.losses_of_regions(levels, variables, regions, ground_truth, dropout)

    def losses_of_regions(
        self,
        levels: Levels,
        variables: Variables,
        regions: Regions,
        ground_truth: GroundTruth,
        dropout: Key[jax.Array, " B"] | None,
    ) -> tuple[Float[Array, " B"], dict[str, Array]]:
        """Returns what those regions of the images cost, and what is logged of each image."""
        logits, deltas = self.classify(levels, variables, regions.boxes, dropout)
        return jax.vmap(self.boxes.loss_of)(logits, deltas, regions, ground_truth)

    def detections_of(
        self, levels: Levels, variables: Variables, proposals: Proposals, image_hw: Array
    ) -> Detections:
        """Returns the detections among the proposals of images of those feature maps."""
        logits, deltas = self.classify(levels, variables, proposals.boxes)
        return jax.vmap(self.boxes.detect)(logits, deltas, proposals, image_hw)

    def classify(
        self,
        levels: Levels,
        variables: Variables,
        boxes: Float[Array, "B R 4"],
        dropout: Key[jax.Array, " B"] | None = None,
    ) -> tuple[Array, Array]:
        """Returns what the box head says of boxes; with the keys `dropout` it drops units out."""
        pooled = jax.vmap(self.boxes.pool)(self.pooled(levels), boxes)
        outputs: Any = self.network.apply(variables, pooled, dropout, method=RCNN.classify)
        return outputs

    def pooled(self, levels: Levels) -> Levels:
        """Returns those of the feature maps that the heads of regions pool."""
        return levels[: len(self.network.pooled_strides)]


def _folded(keys: Key[jax.Array, " B"], number: int) -> Key[jax.Array, " B"]:
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
