"""Flax Linen modules: features, objectness logits and box deltas, nothing else."""
