"""`Conv`: the convolution of every model here.

It is Flax's `nn.Conv` with two functions replaced. On accelerators both do what Flax does: the
convolution is `lax.conv_general_dilated`. A program that is lowered for a CPU computes it in one
of the forms of `cpu_convolution`.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.nn.initializers import Initializer, variance_scaling
from jax.typing import DTypeLike
from jaxtyping import Float

from rpn_jax.models.layers.cpu_convolution import NHWC, CpuForm, cpu_form, plain
from rpn_jax.ops.barriers import computed_once
from rpn_jax.typing import Array


def conv_general_dilated(
    lhs: Float[Array, "..."],
    rhs: Float[Array, "..."],
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: lax.ConvGeneralDilatedDimensionNumbers = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
) -> Float[Array, "..."]:
    """`lax.conv_general_dilated` in all but speed.

    Convolutions that have a form for CPUs have reverse-mode derivatives of any order, but `jax.jvp`
    of them raises TypeError on every platform. On a CPU their values differ from `lax` by a few
    1e-6 of their scale, and maps of bfloat16 are computed in float32, and rounded.
    """
    is_plain = (
        lhs.ndim == rhs.ndim == 4
        and lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers) == NHWC
        and all(dilation == 1 for dilation in (*(lhs_dilation or ()), *(rhs_dilation or ())))
        and feature_group_count == batch_group_count == 1
        and lhs.shape[3] == rhs.shape[2]
        and lhs.size > 0
        and lhs.dtype == rhs.dtype in (jnp.float32, jnp.bfloat16)
        and precision is preferred_element_type is None
    )
    if is_plain:
        window, strides = rhs.shape[:2], tuple(window_strides)
        pads = padding
        if isinstance(pads, str):
            pads = lax.padtype_to_pads(lhs.shape[1:3], window, strides, pads)
        pads = tuple(map(tuple, pads))
        has_windows = all(
            size + sum(pad) >= length and min(pad) >= 0
            for size, pad, length in zip(lhs.shape[1:3], pads, window, strict=True)
        )
        form = cpu_form(window, strides, pads, *rhs.shape[2:]) if has_windows else None
        if form is not None:
            return _conv(form, strides, pads, lhs, rhs)
    return lax.conv_general_dilated(
        lhs,
        rhs,
        window_strides,
        padding,
        lhs_dilation,
        rhs_dilation,
        dimension_numbers,
        feature_group_count=feature_group_count,
        batch_group_count=batch_group_count,
        precision=precision,
        preferred_element_type=preferred_element_type,
    )


# The gradients are given, because those that JAX derives would keep what is made of the input, as
# Winograd's planes of 2.25 times its size, from the forward pass.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _conv(form: CpuForm, strides, pads, x, kernel):
    return _forward(form, strides, pads, x, kernel)[0]


def _forward(form, strides, pads, x, kernel):
    forward, _ = _on_platforms(form, strides, pads)
    return forward(x, kernel), (x, kernel)


def _backward(form, strides, pads, saved, dy):
    _, backward = _on_platforms(form, strides, pads)
    return backward(*saved, dy)


@functools.cache
def _on_platforms(form, strides, pads):
    """Returns the convolution and its gradients; kept, so that JAX traces a shape but once."""
    elsewhere = functools.partial(plain, strides, pads)

    def on_cpu(x, kernel):
        return form.value(*_float32(x, kernel)).astype(x.dtype)

    def gradients_on_cpu(x, kernel, dy):
        # Without the barrier XLA keeps the padded input from the forward pass, besides the input.
        x, dy = lax.optimization_barrier((x, dy))
        dx, d_kernel = form.gradients(*_float32(x, kernel, dy))
        return dx.astype(x.dtype), d_kernel.astype(kernel.dtype)

    def gradients_elsewhere(x, kernel, dy):
        return jax.vjp(elsewhere, x, kernel)[1](dy)

    return (
        functools.partial(lax.platform_dependent, cpu=on_cpu, default=elsewhere),
        functools.partial(
            lax.platform_dependent, cpu=gradients_on_cpu, default=gradients_elsewhere
        ),
    )


_conv.defvjp(_forward, _backward)


def _float32(*arrays):
    """Casts what XLA's CPU backend would cast, for want of bfloat16, anew in each band of a map."""
    return (a.astype(jnp.float32) for a in arrays)


def promote_dtype(x, kernel, bias, *, dtype):
    """Flax's; the three get their gradients together.

    XLA's CPU backend would leave the bias's to the end of the backward pass, and keep the gradient
    of the map for it.
    """
    return _together(*nn.dtypes.promote_dtype(x, kernel, bias, dtype=dtype))


@jax.custom_vjp
def _together(*arrays):
    return arrays


_together.defvjp(lambda *arrays: (arrays, None), lambda _, gradients: computed_once(gradients))


class Conv(nn.Conv):
    """Flax's convolution, made for CPUs as well.

    `kernel_init` is He's for a ReLU behind it, by the outputs, as torchvision's backbones have it.
    """

    kernel_init: Initializer = variance_scaling(2.0, "fan_out", "normal")
    promote_dtype: Callable = promote_dtype
    conv_general_dilated: Callable = conv_general_dilated
