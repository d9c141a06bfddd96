"""What a network expects its pixels to be, and the function that brings images into that form."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Float, UInt8

from rpn_jax.errors import UserError
from rpn_jax.typing import Array


@dataclasses.dataclass(frozen=True)
class InputConvention:
    """A network's input is `(pixels * scale - mean) / std`, pixels being 0 to 255.

    `mean` and `std` are listed in `channel_order`, the order in which the network sees them.
    """

    channel_order: Literal["RGB", "BGR"]
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


CONVENTIONS = {
    # The Caffe VGG and ResNet models.
    "caffe": InputConvention("BGR", 1.0, (104.00699, 116.66877, 122.67892), (1.0, 1.0, 1.0)),
    # As "caffe", with the means of other images: py-faster-rcnn's own models.
    "py_faster_rcnn": InputConvention("BGR", 1.0, (102.9801, 115.9465, 122.7717), (1.0, 1.0, 1.0)),
    # As "caffe", with its means rounded: MSRA models as detectron2 uses them.
    "detectron2": InputConvention("BGR", 1.0, (103.53, 116.28, 123.675), (1.0, 1.0, 1.0)),
    # As "caffe", with means rounded otherwise: the VGG and ResNet models of Keras Applications.
    "keras_caffe": InputConvention("BGR", 1.0, (103.939, 116.779, 123.68), (1.0, 1.0, 1.0)),
    # The ImageNet statistics of torchvision's weights, and of the DenseNets of Keras.
    "torchvision": InputConvention("RGB", 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    # -1 to 1, for training from scratch.
    "centred": InputConvention("RGB", 1.0, (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
}


def input_convention(name: str) -> InputConvention:
    """Returns the convention of that name; an unknown one is a `UserError`."""
    if name not in CONVENTIONS:
        raise UserError(
            f"config.model.input_convention: {name!r} is unknown; use one of "
            f"{', '.join(CONVENTIONS)}"
        )
    return CONVENTIONS[name]


def normalize_images(
    images: UInt8[Array, "B H W 3"],
    image_hw: Float[Array, "B 2"],
    convention: InputConvention,
) -> Float[Array, "B H W 3"]:
    """Returns RGB images in the form that `convention` describes, float32.

    `image_hw` is each image's height and width at the top left of its canvas. The rest of the
    canvas becomes exactly 0, as where images are padded after they were normalised (torchvision,
    detectron2): a network's own zero padding continues it, and its value in the batch is moot.
    """
    pixels = images.astype(jnp.float32)
    if convention.channel_order == "BGR":
        pixels = pixels[..., ::-1]
    mean = jnp.asarray(convention.mean, jnp.float32)[None, None, None, :]
    std = jnp.asarray(convention.std, jnp.float32)[None, None, None, :]
    normalized = (pixels * convention.scale - mean) / std
    in_rows = jnp.arange(images.shape[1])[None, :] < image_hw[:, 0][:, None]
    in_columns = jnp.arange(images.shape[2])[None, :] < image_hw[:, 1][:, None]
    inside = in_rows[:, :, None] & in_columns[:, None, :]
    return jnp.where(inside[..., None], normalized, 0.0)
