"""Random maps, what to compare convolutions by, and slow pools that are plainly right."""

import functools

import jax
import numpy as np

NHWC = ("NHWC", "HWIO", "NHWC")
# Window, stride, padding.
POOLS = [(2, 2, 0), (3, 2, 0), (3, 2, 1), (3, 3, 1), (2, 3, 0), (5, 1, 2)]


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def same_3x3(conv, x, kernel):
    return conv(x, kernel, (1, 1), "SAME", dimension_numbers=NHWC)


def value_and_gradients(function, x, kernel):
    """The output, and the gradients of its product with fixed noise."""
    y, pullback = jax.vjp(function, x, kernel)
    return y, *pullback(normal(9, *y.shape))


def assert_close(got, expected, tolerance=2e-5):
    """Compares to within `tolerance` of the expected array's largest value."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        a, b = (np.asarray(x, np.float32) for x in (a, b))
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(np.abs(b).max(), 1e-30))


def naive_windows(size, window, stride, padding, ceil):
    """The pixels under each window, by laying one after another."""
    windows, start = [], -padding
    while True:
        whole = start + window <= size + padding
        uncovered = start + window - stride < size + padding  # by the windows so far
        if not (whole or (ceil and uncovered and start < size)):
            return windows
        windows.append(range(max(start, 0), min(start + window, size)))
        start += stride


def naive_pool_and_gradient(x, dy, window, stride, padding):
    """Rounds up; the gradient of a window goes to its first maximum in row-major order."""
    rows, columns = (naive_windows(n, window, stride, padding, True) for n in x.shape[1:3])
    y, dx = np.empty((x.shape[0], len(rows), len(columns), x.shape[3])), np.zeros(x.shape)
    for n, i, j, c in np.ndindex(y.shape):
        pixels = [(n, row, column, c) for row in rows[i] for column in columns[j]]
        best = max(pixels, key=lambda pixel: x[pixel])  # the first of several
        y[n, i, j, c] = x[best]
        dx[best] += dy[n, i, j, c]
    return y, dx


def assert_rounds_up_as_a_naive_pool(max_pool, window_stride_padding):
    """Compares a pool with `ceil`, and its gradient, to the bit."""
    window, stride, padding = window_stride_padding
    pool = functools.partial(max_pool, window=window, stride=stride, padding=padding, ceil=True)
    rng = np.random.default_rng(0)
    for height, width in ((4, 7), (6, 5)):
        x = rng.integers(-3, 3, (2, height, width, 2)).astype(np.float32)  # with many ties
        shape = jax.eval_shape(pool, x).shape
        dy = rng.integers(-8, 9, shape).astype(np.float32)  # sums are exact
        y, dx = jax.jit(lambda x, dy: (pool(x), jax.vjp(pool, x)[1](dy)[0]))(x, dy)
        expected_y, expected_dx = naive_pool_and_gradient(x, dy, *window_stride_padding)
        np.testing.assert_array_equal(y, expected_y)
        np.testing.assert_array_equal(dx, expected_dx)
