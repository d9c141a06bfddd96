"""Exact greedy suppression of sorted boxes, in the forms that suit an accelerator and a CPU.

`keep = ~any(suppresses & keep)`, iterated from "keep all", reaches its only fixed point after as
many rounds as the longest chain of suppressions has links, usually a handful. Accelerators do that.
On a CPU the recursion along the boxes is faster, on vectors of boxes.

In both forms the boxes are read in blocks, in order of score. First, the boxes that were kept of
earlier blocks strike out those that they suppress. So the search ends when enough are kept, and
costs about as many comparisons as there are pairs of a kept box and one that was read.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import sequential_vmap
from jaxtyping import Bool, Float, Int

from rpn_jax.ops.boxes import BoxColumns, box_columns, iou, pairwise_iou
from rpn_jax.typing import Array

# Boxes that are read at a time, and rounds between two looks at whether they are done: a GPU waits
# for its host at each look. 1000 of 6000 crowded boxes take 6 blocks and 7 looks; it would be 12
# blocks of 512 boxes and 30 looks, one after each round.
_BLOCK = 1024
_ROUNDS = 4
# On a CPU; and boxes that all of a block are compared with in one step. Such a step is small enough
# for XLA to leave it to one thread.
_BLOCK_ON_CPU = 128
_GROUP = 8


def suppress(
    boxes: Float[Array, "N 4"],
    valid: Bool[Array, " N"],
    group: Int[Array, " N"] | None,
    *,
    iou_threshold: float | int,
    places: int,
) -> tuple[Int[Array, " P"], Int[Array, ""]]:
    """Returns the indices of the kept boxes, padded to `places`, and how many they are.

    Args:
        boxes: candidates by falling score.
        valid: True where the row is a candidate.
        group: of each box, or None. Boxes of different groups do not suppress each other.
        iou_threshold: the highest IoU that two kept boxes may have.
        places: how many to keep, at most.
    """
    options: dict[str, Any] = {"iou_threshold": iou_threshold, "places": places}
    return lax.platform_dependent(
        *lax.stop_gradient((boxes, valid, group)),
        # One image after the other, each as long as it takes.
        cpu=sequential_vmap(functools.partial(suppress_in_vectors, **options)),
        default=functools.partial(suppress_at_once, **options),
    )


def suppress_at_once(
    boxes: Float[Array, "N 4"],
    valid: Bool[Array, " N"],
    group: Int[Array, " N"] | None,
    *,
    iou_threshold: float | int,
    places: int,
) -> tuple[Int[Array, " P"], Int[Array, ""]]:
    """Returns the indices of the kept boxes, padded with 0 to `places`, and how many they are.

    For accelerators: a block is compared with all places and with itself in a few large steps.

    Args:
        boxes: candidates by falling score.
        valid: True where the row is a candidate.
        group: of each, or None.
        iou_threshold: see `nms`.
        places: how many to keep, at most.
    """
    block = min(_BLOCK, len(valid))
    boxes, valid, group, end = _in_blocks(boxes, valid, group, block)
    rank, slot = jnp.arange(block), jnp.arange(places)

    def suppresses(i, j):
        close = pairwise_iou(boxes[i], boxes[j]) > iou_threshold
        return close if group is None else close & (group[i][:, None] == group[j][None, :])

    def unfinished(state):
        start, _, num_kept = state
        return (start < end) & (num_kept < places)

    def add_block(state):
        start, kept, num_kept = state
        new = start + rank
        by_kept = suppresses(kept, new) & (slot < num_kept)[:, None]
        candidates = valid[new] & ~jnp.any(by_kept, axis=0)
        among_new = suppresses(new, new) & (rank[:, None] < rank[None, :])
        keep = _survivors(
            candidates, lambda keep: jnp.any(among_new & keep[:, None], axis=0), rounds=_ROUNDS
        )
        place = jnp.where(keep, num_kept + jnp.cumsum(keep) - 1, places)
        kept = kept.at[place].set(new, mode="drop")
        return start + block, kept, jnp.minimum(num_kept + jnp.sum(keep), places)

    start, kept = jnp.zeros((), jnp.int32), jnp.zeros(places, jnp.int32)
    _, kept, num_kept = lax.while_loop(unfinished, add_block, (start, kept, start))
    return kept, num_kept


def _survivors(
    candidates: Bool[Array, " N"], suppressed_by: Callable[[Array], Array], rounds: int = 1
) -> Bool[Array, " N"]:
    """Returns the candidates that no surviving candidate suppresses.

    `suppressed_by(keep)` says which boxes are suppressed by one of `keep` that comes before them:
    so the first candidate is right after one round, and a box is right one round after those that
    could suppress it. After each `rounds` of them the last one is looked at: rounds beyond the
    first that changes nothing change nothing either.
    """

    def prune(state):
        pruned = state[0]
        for _ in range(rounds):
            keep, pruned = pruned, candidates & ~suppressed_by(pruned)
        return pruned, jnp.any(pruned != keep)

    survivors, _ = lax.while_loop(lambda state: state[1], prune, (candidates, jnp.array(True)))
    return survivors


def suppress_in_vectors(
    boxes: Float[Array, "N 4"],
    valid: Bool[Array, " N"],
    group: Int[Array, " N"] | None,
    *,
    iou_threshold: float | int,
    places: int,
) -> tuple[Int[Array, " P"], Int[Array, ""]]:
    """Returns what `suppress_at_once` does, for CPUs: one kept box at a time, a block in a vector.

    A comparison in a matrix of boxes by boxes is slow there: see `docs/cpu.md`.
    """
    block = min(_BLOCK_ON_CPU, len(valid))
    boxes, valid, group, end = _in_blocks(boxes, valid, group, block)
    rank = jnp.arange(block)
    columns = jnp.stack(box_columns(boxes))
    group = jnp.zeros((0, len(valid)), jnp.int32) if group is None else group[None]
    everything = columns, group, jnp.arange(len(valid))[None]  # (rows, N) each

    @jax.jit  # so that its many uses are traced once
    def suppressed(members, other, i):
        """Says which members of a block the box with the index i of the others suppresses."""
        overlap = iou(BoxColumns(*members[0]), BoxColumns(*other[0][:, i]))
        return (overlap > iou_threshold) & jnp.all(members[1] == other[1][:, i, None], axis=0)

    def to_the_front(chosen, members):
        """Moves the chosen members of a block to its beginning; returns how many they are, too."""
        rank_in_chosen = jnp.cumsum(chosen)
        place = jnp.where(chosen, rank_in_chosen - 1, block)
        members = [jnp.zeros_like(x).at[:, place].set(x, mode="drop") for x in members]
        return tuple(members), rank_in_chosen[-1]

    def unfinished(state):
        start, _, num_kept = state
        return (start < end) & (num_kept < places)

    def add_block(state):
        start, kept, num_kept = state
        members = tuple(lax.dynamic_slice_in_dim(x, start, block, axis=1) for x in everything)

        def by_kept(i, candidates):
            for j in range(_GROUP):
                candidates &= ~suppressed(members, kept, i * _GROUP + j)
            return candidates

        candidates = lax.dynamic_slice_in_dim(valid, start, block)
        candidates = lax.fori_loop(0, -(-num_kept // _GROUP), by_kept, candidates)
        members, count = to_the_front(candidates, members)

        def suppressed_by(keep):
            def by_group(i, out):
                for j in range(_GROUP):
                    k = i * _GROUP + j
                    out |= suppressed(members, members, k) & keep[k] & (rank > k)
                return out

            return lax.fori_loop(0, -(-count // _GROUP), by_group, jnp.zeros(block, bool))

        keep = _survivors(rank < count, suppressed_by)
        members, count = to_the_front(keep, members)
        kept = tuple(
            lax.dynamic_update_slice_in_dim(old, new, num_kept, axis=1)
            for old, new in zip(kept, members, strict=True)
        )
        return start + block, kept, num_kept + count

    # Beyond the kept boxes stand points, which overlap nothing.
    kept = tuple(jnp.zeros((len(x), places + block), x.dtype) for x in everything)
    start = jnp.zeros((), jnp.int32)
    _, (_, _, index), num_kept = lax.while_loop(unfinished, add_block, (start, kept, start))
    return index[0, :places], jnp.minimum(num_kept, places)


def _in_blocks(boxes, valid, group, block):
    """Returns the three padded to whole blocks, and where the valid boxes end."""
    end = jnp.max(jnp.where(valid, jnp.arange(len(valid)) + 1, 0))
    padding = (0, -len(valid) % block)
    group = None if group is None else jnp.pad(group, padding)
    return jnp.pad(boxes, (padding, (0, 0))), jnp.pad(valid, padding), group, end
