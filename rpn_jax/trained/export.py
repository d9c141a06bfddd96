"""Export of a trained network: a compiled function, a model file, a torchvision state dict."""

import json
import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import export
from ml_collections import ConfigDict

from rpn_jax.detectors.detector import Detector
from rpn_jax.errors import UserError
from rpn_jax.files import write_bytes, write_text
from rpn_jax.text import printable
from rpn_jax.trained.load import check_proposes, load_trained
from rpn_jax.weights.exporting import (
    torchvision_arrays,
    torchvision_layout,
    torchvision_model,
)
from rpn_jax.weights.files import safetensors_bytes
from rpn_jax.weights.model_file import SUFFIX, write_model

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def export_weights(
    config: ConfigDict,
    place: pathlib.Path,
    out: pathlib.Path,
    *,
    step: int | str | None = None,
    file_format: str = "rpn_jax",
) -> str:
    """Writes a trained network's arrays and returns a line about the file.

    With `file_format` "rpn_jax" it is a model file, with "torchvision" see `torchvision_arrays`.
    For `place` and `step` see `load_trained`.

    Raises:
        UserError: the network cannot be read, the format cannot hold it, or the file cannot be
            written.
    """
    if out.suffix != SUFFIX:
        raise UserError(f"--out={out}: a file of weights ends in {SUFFIX}; give it such a name")
    if file_format == "torchvision":
        check_proposes(config, place)
    layout = torchvision_layout(config) if file_format == "torchvision" else None
    _, variables, step = load_trained(config, place, step)
    variables = jax.device_get(variables)
    if layout:
        arrays = torchvision_arrays(variables, layout, config.rpn.anchors.aspect_ratios)
        write_bytes(out, safetensors_bytes(arrays, {"format": "pt", "source": str(place)}))
        kind = f"for torchvision's {torchvision_model(config)}"
    else:
        write_model(out, config, variables, source=str(place), step=step)
        kind = f"with the config of its {config.model.backbone}"
    count = sum(array.size for array in jax.tree.leaves(variables))
    return printable(f"{out}: {count / 1e6:.1f} million values of {place}, {kind}")


def export_function(
    config: ConfigDict,
    place: pathlib.Path,
    out: pathlib.Path,
    *,
    image_hw: tuple[int, int],
    batch_size: int = 1,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
    settings: str = "test",
    step: int | str | None = None,
) -> int:
    """Loads a trained network and calls `write_function`.

    Args:
        config: config of the network.
        place: see `load_trained`.
        out: see `write_function`.
        image_hw: see `write_function`.
        batch_size: see `write_function`.
        platforms: see `write_function`.
        settings: "train" or "test", the counts of `config.rpn.proposals` to use.
        step: step of the checkpoint, see `load_trained`.
    """
    check_platforms(platforms)
    check_proposes(config, place)
    detector, variables, _ = load_trained(config, place, step)
    return write_function(
        detector.with_counts(settings),
        variables,
        out,
        class_names=config.box.class_names if "box" in config else (),
        pasting=pasting_of(config),
        image_hw=image_hw,
        batch_size=batch_size,
        platforms=platforms,
    )


def pasting_of(config: ConfigDict) -> dict[str, Any]:
    """Returns how masks are pasted, as arguments of `paste_masks`; {} of a network without any."""
    if "mask" not in config:
        return {}
    return {"pasting": config.mask.pasting, "threshold": config.mask.threshold}


def check_platforms(platforms: Sequence[str]) -> None:
    """Raises a `UserError` that names an unknown platform."""
    if unknown := [name for name in platforms if name not in PLATFORMS]:
        raise UserError(
            f"platforms: {unknown[0]!r} is unknown; give one or more of {','.join(PLATFORMS)}"
        )


def write_function(
    detector: Detector,
    variables,
    out: pathlib.Path,
    *,
    image_hw: tuple[int, int],
    batch_size: int = 1,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
    class_names: Sequence[str] = (),
    pasting: Mapping[str, Any] = types.MappingProxyType({}),
) -> int:
    """Writes the function from images to boxes, weights inside, and returns the file's bytes.

    `predict_function` is lowered for all platforms, which this machine need not have, and
    serialised by `jax.export`: `jax.export.deserialize` reads the file without this package.

    Args:
        detector: detector with the wanted counts of proposals.
        variables: trained variables of the detector.
        out: file to write.
        image_hw: rows and columns of the canvas.
        batch_size: number of images per call.
        platforms: names of `PLATFORMS`.
        class_names: of a detector; they go to a file beside `out`, with ".classes.json" appended.
        pasting: see `pasting_of`; it goes to one with ".pasting.json" appended.

    Raises:
        UserError: a platform is unknown, some level has no cell on the canvas, or a file cannot be
            read or written.
    """
    check_platforms(platforms)
    if any(0 in grid_hw for grid_hw in detector.network.grid_hw(*image_hw)):
        raise UserError(
            f"image size {'x'.join(map(str, image_hw))}: leaves no cell of the network's last "
            "feature map; give a larger one"
        )
    function = predict_function(detector, jax.device_get(variables))
    exported = export.export(jax.jit(function), platforms=tuple(platforms))(
        jax.ShapeDtypeStruct((batch_size, *image_hw, 3), jnp.uint8),
        jax.ShapeDtypeStruct((batch_size, 2), jnp.float32),
    )
    content = bytes(exported.serialize())
    write_bytes(out, content)
    names = {number: name for number, name in enumerate(class_names, 1)}
    for kind, about in {"classes": names, "pasting": dict(pasting)}.items():
        beside = out.with_name(f"{out.name}.{kind}.json")
        if about:
            write_text(beside, json.dumps(about, indent=2))
        else:
            beside.unlink(missing_ok=True)  # of what `out` was before
    return len(content)


def predict_function(detector: Detector, variables):
    """Returns `(images, image_hw) -> {"boxes": …, "scores": …, "valid": …}`.

    `images` (B, H, W, 3) are uint8 RGB, each at the top left of its canvas; `image_hw` (B, 2)
    float32 is each image's height and width. Boxes (B, P, 4) are in pixels of the canvas, by
    falling score (B, P); a slot that is not `valid` (B, P) holds zeros. A detector of classes gives
    "labels" (B, P) too: 1 is the first of the config's class names, 0 an empty slot. One of masks
    gives "masks" (B, P, M, M) too: probabilities in each of M x M cells of the box, see
    `rpn_jax.paste_masks`.
    """

    def predict(images, image_hw):
        found = detector.predict(variables, images, image_hw)
        kept = ("boxes", "scores", "valid", "labels", "masks")
        arrays = {name: array for name, array in found._asdict().items() if name in kept}
        return {name: array for name, array in arrays.items() if array is not None}

    return predict
