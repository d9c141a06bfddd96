"""Pure functions on the boxes, anchors, labels and losses of one image; `jax.vmap` gives the batch.

They hold no parameters and know no model, no config and no file. All is float32: eight bits of
mantissa (bfloat16) cannot hold a coordinate, whatever the network computes in.
"""
