"""Backbones and necks by their names in a config; those of one's own by an import path."""

import itertools
from collections.abc import Callable, Collection, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from rpn_jax.errors import UserError
from rpn_jax.models.backbones import BACKBONES
from rpn_jax.models.backbones.base import Backbone
from rpn_jax.models.fpn import FPN
from rpn_jax.models.neck import Neck
from rpn_jax.parts import check_call, import_part, is_import_path, running, wrong_part

_BACKBONE, _NECK = "config.model.backbone", "config.model.neck"
_ODD_HW = (165, 235)  # of a canvas whose sides no stride divides
NECKS = {"fpn": FPN}


def choose(field: str, name: str | bool, known: Collection[str | bool]) -> str | bool:
    """Returns `name`, which must be one of `known`."""
    if name not in known:
        listed = ", ".join(map(str, known))
        raise UserError(f"config.model.{field}: {name!r} is unknown; use one of {listed}")
    return name


def named_backbone(name: str) -> Callable[..., Backbone]:
    """Returns the constructor of a backbone: a name of `BACKBONES`, or an import path."""
    if is_import_path(name):
        return _own_backbone(name)
    return BACKBONES[choose("backbone", name, BACKBONES)]


def named_neck(name: str) -> Callable[..., Neck]:
    """Returns the constructor of a neck: a name of `NECKS`, or an import path."""
    if is_import_path(name):
        return _own_neck(name)
    return NECKS[choose("neck", name, NECKS)]


def check_stages(
    backbone: str, constructor: Callable[..., Backbone], output_stages: Sequence[str]
) -> None:
    """Raises a `UserError` unless the backbone has the stages; those built in have all five."""
    stages = list(constructor().stage_strides())
    if missing := [stage for stage in output_stages if stage not in stages]:
        raise UserError(
            f"config.model.backbone={backbone}: has no stage {missing[0]}, but {stages[0]} to "
            f"{stages[-1]}; give one of them as config.model.output_stage, or as its own "
            "output_stages; a neck needs all that it takes"
        )


def check_fit(backbone: str, module: Backbone, neck: str | None, neck_module: Neck | None) -> None:
    """Raises a `UserError` unless the neck can work on the backbone's stages."""
    strides = module.strides
    if isinstance(neck_module, FPN) and any(2 * a != b for a, b in itertools.pairwise(strides)):
        raise UserError(
            f"config.model.neck: the stages {', '.join(module.output_stages)} of {backbone} have "
            f"strides {', '.join(map(str, strides))}, which {neck} cannot put together; set it to "
            "None, or config.model.backbone to a ResNet"
        )
    if is_import_path(backbone):
        with running(_BACKBONE, backbone):
            _check_own_backbone(backbone, module)
    if neck_module is not None and is_import_path(neck):
        with running(_NECK, neck):
            _check_own_neck(neck, neck_module, module)


def _own_backbone(path: str) -> Callable[..., Backbone]:
    """Returns the subclass of `Backbone`, or the function that makes one, of an import path.

    Raises:
        UserError: it cannot be imported, or makes no backbone of stages c1, c2, ….
    """
    make = import_part(_BACKBONE, path)
    fields = dict(frozen_stages=0, output_stages=("c1",), remat=False, dtype=jnp.float32)
    check_call(_BACKBONE, path, make, **fields)
    check_call(_BACKBONE, path, make)
    with running(_BACKBONE, path):
        backbone = make()
    if not isinstance(backbone, Backbone):
        raise wrong_part(
            _BACKBONE, path, f"makes no models.backbones.base.Backbone, but {_kind_of(backbone)}"
        )
    with running(_BACKBONE, path):
        stages = list(backbone.stage_strides())
    if stages != [f"c{number}" for number in range(1, len(stages) + 1)]:
        raise wrong_part(_BACKBONE, path, f"has the stages {stages}; name them c1, c2, …, in order")
    return make


def _own_neck(path: str) -> Callable[..., Neck]:
    """Returns the subclass of `Neck`, or the function that makes one, of an import path.

    Raises:
        UserError: it cannot be imported, or makes no neck.
    """
    make = import_part(_NECK, path)
    fields = dict(channels=8, dtype=jnp.float32, norm=None)
    check_call(_NECK, path, make, **fields)
    with running(_NECK, path):
        neck = make(**fields)
    if not isinstance(neck, Neck):
        raise wrong_part(_NECK, path, f"makes no models.neck.Neck, but {_kind_of(neck)}")
    return make


def _kind_of(module: object) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _check_own_backbone(path: str, backbone: Backbone) -> None:
    """Raises a `UserError` unless the backbone's maps are of the size that it says.

    Nothing is compiled.
    """
    images = jax.ShapeDtypeStruct((1, *_ODD_HW, 3), jnp.float32)
    maps = _outputs(backbone, images)
    _check_maps(_BACKBONE, path, "stage_cells", maps, backbone.grid_hw(*_ODD_HW))


def _check_own_neck(path: str, neck: Neck, backbone: Backbone) -> None:
    """Raises a `UserError` unless the neck's levels are of the size that it says, and alike."""
    images = jax.ShapeDtypeStruct((1, *_ODD_HW, 3), jnp.float32)
    levels = _outputs(neck, _outputs(backbone, images))
    grids = neck.grid_hw(backbone.grid_hw(*_ODD_HW))
    _check_maps(_NECK, path, "grid_hw", levels, grids)
    if len(neck.strides(backbone.strides)) != len(grids):
        strides = neck.strides(backbone.strides)
        raise wrong_part(_NECK, path, f"has {len(grids)} levels, but strides() gives {strides}")
    channels = [level.shape[-1] for level in levels]
    if len(set(channels)) > 1:
        raise wrong_part(
            _NECK, path, f"has levels of {channels} channels; one head serves them all"
        )


def _outputs(module: nn.Module, inputs):
    return jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x)[0], inputs)


def _check_maps(field, path, method, maps, grids) -> None:
    actual = tuple(level.shape[1:3] for level in maps)
    expected = tuple(map(tuple, grids))
    if actual != expected:
        raise wrong_part(
            field,
            path,
            f"makes maps of {actual} cells of an image of {_ODD_HW} pixels, but {method}() says "
            f"{expected}",
        )
