"""The third stage: from boxes with a class to masks (He et al., "Mask R-CNN", arXiv 1703.06870).

Here and below: R regions of a training sample; D detections; M rows and columns of a predicted
mask. All functions are pure and take one image.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float

from rpn_jax.ops.masks import crop_masks, mask_loss
from rpn_jax.typing import Array, Detections, GroundTruth, Regions


@dataclasses.dataclass(frozen=True)
class MaskStage:
    """From boxes, their classes and features to masks.

    Fields:
      pool: makes the features (R, h, w, F) of boxes (R, 4) out of the levels of an image.
      max_objects: how many regions an image trains the stage on at most, those that cover objects.
      soft: see `masks.crop_masks`, also for the next one.
      aligned: as above.
      balance: what the loss is multiplied by.
    """

    pool: Callable[[tuple[Array, ...], Array], Array]
    max_objects: int
    soft: bool = False
    aligned: bool = True
    balance: float = 1.0

    def sample(self, regions: Regions) -> Regions:
        """Returns the regions on which an image trains the stage: the first, which cover objects.

        Args:
          regions: the sample of the box stage, the positives first.
        """
        return Regions(*(of_regions[: self.max_objects] for of_regions in regions))

    def loss_of(
        self, logits: Float[Array, "R M M"], regions: Regions, ground_truth: GroundTruth
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Returns an image's loss and what is logged of it.

        The loss is a mean over the image's own positives, so that a mean over images does not
        depend on how devices share them. detectron2 and torchvision take one mean over the
        positives of all images of a device, which is the same where a device has one image, or all
        images have as many.

        Args:
          logits: of the masks, as those of the regions' classes.
          regions: what `sample` returns.
          ground_truth: of this image, with masks.
        """
        assert ground_truth.masks is not None
        # An object whose mask nobody drew has zeros alone, of which there is nothing to learn.
        has_mask = jnp.any(ground_truth.masks > 0, axis=(1, 2))[regions.gt_index]
        labels = jnp.where(regions.valid & has_mask, regions.labels, 0)
        targets = crop_masks(
            ground_truth.masks,
            ground_truth.boxes,
            regions.boxes,
            regions.gt_index,
            size=logits.shape[1],
            soft=self.soft,
            aligned=self.aligned,
        )
        count = jnp.maximum((labels > 0).sum(), 1)
        loss = self.balance * mask_loss(logits, targets, labels) / count
        correct = (logits > 0) == (targets >= 0.5)
        of_region = jnp.where(labels > 0, correct.mean((1, 2)), 0)
        return loss, {"loss_mask": loss, "mask_accuracy": of_region.sum() / count}

    def paint(self, logits: Float[Array, "D M M"], found: Detections) -> Detections:
        """Returns an image's detections with the masks that the head gives them."""
        masks = jnp.where(found.valid[:, None, None], jax.nn.sigmoid(logits), 0)
        return found._replace(masks=masks)
