"""The Region Proposal Network as a detector: its one stage, and the network under it.

Here and below: L levels, finest first; K anchors at each position; A anchors in all. A stage holds
numbers and pure functions of one image. The detector holds the only `vmap`s.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Key, PRNGKeyArray

from rpn_jax.detectors.detector import Found, Losses, Variables
from rpn_jax.detectors.proposals import propose
from rpn_jax.detectors.targets import assign_targets
from rpn_jax.models.inputs import InputConvention, normalize_images
from rpn_jax.models.rcnn import RCNN, Levels
from rpn_jax.ops.anchors import grid_anchors
from rpn_jax.ops.losses import rpn_loss
from rpn_jax.ops.matching import Label
from rpn_jax.typing import Array, GroundTruth, Images, Proposals


class Counts(NamedTuple):
    """How many anchors of a level enter NMS, and how many proposals of an image leave it."""

    pre_nms_top_n: int
    post_nms_top_n: int


@dataclasses.dataclass(frozen=True)
class ProposalStage:
    """From features to proposals: the paper's section 3.1.

    Fields:
      cells: the (K, 4) anchors of one position, for each level.
      offset: of the first anchor's centre, in strides.
      floor_strides: whether strides are the canvas over the level's cells, rounded down, as
        torchvision has them (61 and not 64, where 800 rows have 13 cells).
      targets: keywords of `targets.assign_targets`.
      loss: keywords of `losses.rpn_loss`.
      box_weights: multiply the deltas, see `boxes.encode_boxes`.
      train: the counts with which a second stage is trained.
      test: those with which the network is used.
      measured: those with which its recall is measured.
      nms_threshold: see `proposals.propose`, also for the next two.
      min_size: as above.
      keep_padding: as above.
    """

    cells: tuple[np.ndarray, ...]
    targets: Mapping[str, Any]
    loss: Mapping[str, Any]
    train: Counts
    test: Counts
    measured: Counts
    offset: float = 0.5
    floor_strides: bool = False
    box_weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    nms_threshold: float = 0.7
    min_size: float = 0.0
    keep_padding: bool = False

    def strides_hw(self, network: RCNN, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """Returns the pixels from one row, and one column, of each level's anchors to the next."""
        if not self.floor_strides:
            return tuple((stride, stride) for stride in network.strides)
        grids = network.grid_hw(height, width)
        return tuple((height // max(rows, 1), width // max(columns, 1)) for rows, columns in grids)

    def anchors(self, network: RCNN, height: int, width: int) -> Levels:
        """Returns the anchors (H_l * W_l * K, 4) of each level for a canvas of that size."""
        grids = network.grid_hw(height, width)
        strides = self.strides_hw(network, height, width)
        return tuple(
            grid_anchors(cells, grid_hw, stride_hw, offset=self.offset)
            for cells, grid_hw, stride_hw in zip(self.cells, grids, strides, strict=True)
        )

    def loss_of(
        self,
        key: PRNGKeyArray,
        logits: Levels,
        deltas: Levels,
        anchors: Float[Array, "A 4"],
        ground_truth: GroundTruth,
        image_hw: Float[Array, "2"],
    ) -> tuple[Float[Array, ""], dict[str, Array], Int[Array, " A"]]:
        """Returns an image's loss, what is logged of it, and its anchors' sampled labels."""
        num_positions = len(anchors) // len(self.cells[0])
        all_logits, all_deltas = jnp.concatenate(logits), jnp.concatenate(deltas)
        targets = assign_targets(
            key, anchors, ground_truth, image_hw, box_weights=self.box_weights, **self.targets
        )
        loss, parts = rpn_loss(
            all_logits,
            all_deltas,
            targets,
            batch_size_per_image=self.targets["batch_size_per_image"],
            num_positions=num_positions,
            **self.loss,
        )
        is_positive = targets.labels == Label.POSITIVE
        is_sampled = targets.labels != Label.IGNORE
        correct = is_sampled & ((all_logits > 0) == is_positive)
        parts = {
            "loss": loss,
            **parts,
            "objectness_accuracy": correct.sum() / jnp.maximum(is_sampled.sum(), 1),
            "positives": (targets.matches.labels == Label.POSITIVE).sum(),
            "sampled_positives": is_positive.sum(),
            "sampled_negatives": (targets.labels == Label.NEGATIVE).sum(),
        }
        return loss, parts, targets.labels

    def propose(
        self,
        logits: Levels,
        deltas: Levels,
        anchors: Levels,
        image_hw: Float[Array, "2"],
        counts: Counts,
        *,
        with_nms: bool = True,
        box_gradient: bool = False,
    ) -> Proposals:
        """Returns an image's proposals; for `box_gradient` see `proposals.propose`."""
        return propose(
            logits,
            deltas,
            anchors,
            image_hw,
            pre_nms_top_n=counts.pre_nms_top_n,
            post_nms_top_n=counts.post_nms_top_n,
            nms_threshold=self.nms_threshold if with_nms else None,
            min_size=self.min_size,
            box_weights=self.box_weights,
            keep_padding=self.keep_padding,
            box_gradient=box_gradient,
        )


class Look(NamedTuple):
    """What the network says of a batch."""

    logits: Levels  # (B, A_l) each
    deltas: Levels  # (B, A_l, 4) each
    anchors: Levels  # (A_l, 4) each
    batch_stats: Any
    levels: Levels = ()  # (B, H_l, W_l, F) each: the features that the heads share


@dataclasses.dataclass(frozen=True)
class RPN:
    """The network alone: what it finds are proposals. See `detector.Detector`.

    Fields:
      network: with an `rpn` part.
      proposals: its stage.
      pixels: what the network expects of them.
    """

    network: RCNN
    proposals: ProposalStage
    pixels: InputConvention

    def with_counts(self, name: str) -> "RPN":
        """Returns the detector whose `predict` uses the counts "train", "test" or "measured"."""
        counts = getattr(self.proposals, name)
        return dataclasses.replace(self, proposals=dataclasses.replace(self.proposals, test=counts))

    def rpn(self) -> "RPN":
        """Returns the detector itself, which has this stage alone."""
        return self

    def anchors(self, height: int, width: int) -> Levels:
        """Returns the anchors of each level for a canvas of `height` x `width` pixels."""
        return self.proposals.anchors(self.network, height, width)

    def losses(
        self, variables: Variables, keys: Key[jax.Array, " B"], batch: Images, *, train: bool
    ) -> Losses:
        """Returns what the batch costs."""
        look = self.look(variables, batch.images, batch.image_hw, batch.features, train=train)
        return self.losses_of(look, keys, batch, variables, train=train)

    def predict(
        self, variables: Variables, images: Array, image_hw: Float[Array, "B 2"]
    ) -> Proposals:
        """Returns each image's proposals."""
        return self.proposals_of(
            self.look(variables, images, image_hw), image_hw, self.proposals.test
        )

    def assess(
        self,
        variables: Variables,
        keys: Key[jax.Array, " B"],
        batch: Images,
        without: Sequence[str] = (),
    ) -> tuple[Found, Losses]:
        """Returns each image's proposals and what it costs.

        `without` leaves parts of the network out, as the paper's Table 2 does: "nms"; "ranking",
        which draws the proposals from all anchors at random, without NMS; "regression", whose
        proposals are the anchors themselves.
        """
        look = self.look(variables, batch.images, batch.image_hw, batch.features)
        losses = self.losses_of(look, keys, batch, variables)
        proposals = self.without(look, keys, batch, without, self.proposals.measured)
        return Found(proposals), losses

    def without(
        self,
        look: Look,
        keys: Key[jax.Array, " B"],
        batch: Images,
        parts: Sequence[str],
        counts: Counts,
    ) -> Proposals:
        """Returns the proposals without some `parts` of the network, see `assess`."""
        if "ranking" in parts:
            look = look._replace(logits=random_logits(keys, look.logits))
        if "regression" in parts:
            look = look._replace(deltas=jax.tree.map(jnp.zeros_like, look.deltas))
        with_nms = not {"nms", "ranking"} & set(parts)
        return self.proposals_of(look, batch.image_hw, counts, with_nms=with_nms)

    def look(self, variables, images, image_hw, features=None, *, train=False) -> Look:
        """Returns what the network says; `features` are the backbone's, where known."""
        _, height, width, _ = images.shape
        anchors = self.anchors(height, width)
        images = normalize_images(images, image_hw, self.pixels)
        (levels, logits, deltas), updated = self.network.apply(
            variables,
            images,
            features=features,
            train=train,
            mutable=["batch_stats"] if train else [],
            method=RCNN.look,
        )
        batch_stats = updated.get("batch_stats", variables.get("batch_stats", {}))
        return Look(logits, deltas, anchors, batch_stats, levels)

    def losses_of(
        self,
        look: Look,
        keys: Key[jax.Array, " B"],
        batch: Images,
        variables: Variables | None = None,
        *,
        train: bool = False,
    ) -> Losses:
        """Returns what a batch costs of which the network says `look`."""
        del variables, train  # only a second stage runs more of the network
        anchors = jnp.concatenate(look.anchors)

        def loss_of(key, logits, deltas, ground_truth, image_hw):
            return self.proposals.loss_of(key, logits, deltas, anchors, ground_truth, image_hw)

        loss, parts, labels = jax.vmap(loss_of)(
            keys, look.logits, look.deltas, batch.ground_truth, batch.image_hw
        )
        return Losses(loss, parts, look.batch_stats, labels)

    def proposals_of(self, look: Look, image_hw, counts: Counts, **options) -> Proposals:
        """Returns the proposals of images of which the network says `look`."""

        def propose_image(logits, deltas, image_hw):
            return self.proposals.propose(logits, deltas, look.anchors, image_hw, counts, **options)

        return jax.vmap(propose_image)(look.logits, look.deltas, image_hw)


def random_logits(keys: Key[jax.Array, " B"], logits_per_level: Levels) -> Levels:
    """Returns logits that rank all anchors of an image at random, by the image's key."""

    def one_image(key, logits_per_level):
        return tuple(
            jax.random.normal(jax.random.fold_in(key, level), logits.shape)
            for level, logits in enumerate(logits_per_level)
        )

    return jax.vmap(one_image)(keys, logits_per_level)
