"""Rows read off a program against rows that were lit up one at a time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from rpn_jax.models.layers.convolution import conv_general_dilated
from rpn_jax.models.layers.pooling import max_pool
from rpn_jax.models.receptive_field import rows_seen

HEIGHT, WIDTH = 22, 8


def conv(x, size, channels=2, *, stride=1, padding=0, **options):
    """A convolution whose weights are 1."""
    kernel = jnp.ones((size, size, x.shape[-1], channels))
    pads = [(padding, padding)] * 2
    dimension_numbers = ("NHWC", "HWIO", "NHWC")
    return conv_general_dilated(
        x, kernel, (stride, stride), pads, dimension_numbers=dimension_numbers, **options
    )


def downsampling_block(x):
    shortcut = conv(x, 1, stride=2)
    y = nn.relu(conv(x, 3, stride=2, padding=1))
    return nn.relu(shortcut + conv(y, 3, padding=1))


def pyramid(x):
    fine = conv(x, 3, padding=1)
    coarse = max_pool(conv(fine, 3, padding=1))
    upsampled = coarse.repeat(2, axis=1).repeat(2, axis=2)
    return conv(fine, 1) + upsampled, coarse


def dense_block(x):
    for _ in range(2):
        x = jnp.concatenate([x, conv(x, 3, padding=1)], axis=-1)
    # What follows sees all channels, the old and the new.
    return nn.avg_pool(conv(x, 1), (2, 2), strides=(2, 2))


def local_response(x):
    return x / nn.avg_pool(1 + x, (1, 3), padding=((0, 0), (1, 1)))


FUNCTIONS = {
    "stem": lambda x: max_pool(conv(x, 7, stride=2, padding=3), 3, 2, 1),
    "vgg": lambda x: max_pool(conv(conv(x, 3, 32, padding=1), 3, 32, padding=1)),  # Winograd's
    "even": lambda x: conv(x, 4, stride=3),
    "dilated": lambda x: conv(x, 3, padding=2, rhs_dilation=(2, 2)),
    "transposed": lambda x: conv(conv(x, 3, stride=2), 3, padding=2, lhs_dilation=(2, 2)),
    "residual": downsampling_block,
    "dense": dense_block,
    "pyramid": pyramid,
    "cropped": lambda x: lax.pad(x, 0.0, ((0, 0, 0), (-1, 2, 1), (0, 0, 0), (0, 0, 0)))[:, 2:19:3],
    "rows put together": lambda x: jnp.concatenate([x[:, :1], x[:, ::2], x[:, 4:9]], axis=1),
    "normed": lambda x: conv(x / (1 + local_response(x)).sum(axis=3, keepdims=True), 3),
    "flattened": lambda x: conv(x, 3, 5).reshape(1, -1, 5),
    "transposed axes": lambda x: conv(x, 3, stride=2).transpose(0, 3, 1, 2),
    "recomputed": jax.checkpoint(lambda x: conv(x, 3)),
}


def lit_rows(function):
    """The first and last row that changes each element of the outputs when it alone is lit."""
    rows = jnp.eye(HEIGHT)[:, None, :, None, None] * jnp.ones((1, 1, 1, WIDTH, 3))
    outputs = jax.jit(jax.vmap(function))(jnp.concatenate([rows, 0 * rows[:1]]))
    for output in jax.tree.leaves(outputs):
        changed = np.abs(np.asarray(output[:-1] - output[-1:])) > 1e-2
        first, last = changed.argmax(axis=0), HEIGHT - 1 - changed[::-1].argmax(axis=0)
        anything = changed.any(axis=0)
        yield np.where(anything, first, np.inf), np.where(anything, last, -np.inf)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_rows_are_those_that_change_the_output(name):
    function = FUNCTIONS[name]
    images = jax.ShapeDtypeStruct((1, HEIGHT, WIDTH, 3), jnp.float32)
    outputs = jax.tree.leaves(jax.eval_shape(function, images))
    seen = rows_seen(function, images)
    seen = seen if name == "pyramid" else [seen]
    for output, rows, (first, last) in zip(outputs, seen, lit_rows(function), strict=True):
        assert rows.first.ndim == rows.last.ndim == output.ndim
        np.testing.assert_array_equal(np.broadcast_to(rows.first, output.shape), first)
        np.testing.assert_array_equal(np.broadcast_to(rows.last, output.shape), last)


layer = st.tuples(
    st.sampled_from(["conv", "pool"]), st.integers(1, 5), st.integers(1, 2), st.integers(1, 3)
)


@settings(max_examples=25, deadline=None)
@given(st.lists(layer, min_size=1, max_size=6))
def test_extent_and_step_of_a_chain_follow_the_recurrence(layers):
    def chain(x):
        for kind, size, stride, dilation in layers:
            if kind == "conv":
                x = conv(x, size, stride=stride, padding=size // 2, rhs_dilation=(dilation,) * 2)
            else:
                x = max_pool(x, size, stride, size // 2)
        return x

    # A window of k cells that lie `step` apart adds (k - 1) step; a stride multiplies the step.
    extent, step = 1, 1
    for kind, size, stride, dilation in layers:
        extent += (size - 1) * step * (dilation if kind == "conv" else 1)
        step *= stride
    rows = rows_seen(chain, jax.ShapeDtypeStruct((1, 1024, 1024, 1), jnp.float32))
    assert rows.extent == extent
    assert rows.step == step


def test_statistics_of_all_rows_do_not_count():
    def normalized(x):
        y = conv(x, 3, padding=1)
        mean = y.mean(axis=(1, 2), keepdims=True)
        return (y - mean) * lax.rsqrt(jnp.square(y - mean).mean(axis=(1, 2), keepdims=True)), mean

    images = jax.ShapeDtypeStruct((1, HEIGHT, WIDTH, 3), jnp.float32)
    rows, of_mean = rows_seen(normalized, images)
    assert rows.extent == 3
    assert of_mean is None


@pytest.mark.parametrize(
    ("function", "primitive"),
    [
        (functools.partial(jnp.cumsum, axis=1), "cumsum"),
        (functools.partial(jnp.flip, axis=1), "rev"),
        (lambda x: jnp.concatenate([x, jnp.zeros_like(x)], axis=1), "concatenate"),
        (lambda x: jnp.einsum("nhwc,hk->nkwc", x, jnp.ones((HEIGHT, 3))), "dot_general"),
        (lambda x: x.reshape(1, 2, HEIGHT // 2, WIDTH, 3), "reshape"),
        (lambda x: conv(x.swapaxes(1, 3), 1), "conv_general_dilated"),
        (lambda x: lax.scan(lambda c, row: (c, row), 0.0, x[0])[1], "scan"),
    ],
)
def test_what_has_no_rule_is_named(function, primitive):
    images = jax.ShapeDtypeStruct((1, HEIGHT, WIDTH, 3), jnp.float32)
    with pytest.raises(NotImplementedError, match=f"through {primitive} of shapes"):
        rows_seen(function, images)
