"""Import of other projects' weights into a model file."""

import pathlib
from collections.abc import Sequence

from ml_collections import ConfigDict

from rpn_jax.errors import UserError, unknown_name
from rpn_jax.models.backbones import BACKBONES
from rpn_jax.runs.config import default_config
from rpn_jax.runs.config_files import apply_overrides
from rpn_jax.text import printable
from rpn_jax.training.build import build_network
from rpn_jax.weights.class_names import are_known
from rpn_jax.weights.model_file import check_suffix, write_model
from rpn_jax.weights.networks import WHOLE_NETWORKS, is_named, source_config
from rpn_jax.weights.sources import Source, load_source, read_source

NAMES = (*BACKBONES, *WHOLE_NETWORKS)
_STAGES = ("rpn", "faster_rcnn", "mask_rcnn")  # by how many they have


def import_weights(
    path: pathlib.Path,
    name: str,
    out: pathlib.Path,
    overrides: Sequence[str] = (),
    bn_eps: float | None = None,
    detector: str | None = None,
) -> str:
    """Converts another project's weights file to a model file; returns lines about the result.

    Args:
        path: file to read.
        name: name of a backbone, imported alone and up to c5, or of a whole network.
        out: model file to write.
        overrides: `--config.field=value` for the model file's config.
        bn_eps: epsilon of the source's batch normalisation, if it differs from its project's. A
            R-CNN of torchvision needs it, unless it is a published file.
        detector: "rpn" for the first stage of a whole network alone, "faster_rcnn" for two; by
            default all that there is.

    Raises:
        UserError: the file cannot be read, is not of that network, or does not fit the config; the
            epsilon is not known; or a backbone is to be a detector.
    """
    check_suffix(out)
    if name not in NAMES:
        raise UserError(f"--model={name}: {unknown_name(name, NAMES)}")
    if detector and name not in WHOLE_NETWORKS:
        raise UserError(
            f"--detector={detector}: --model={name} is a backbone alone; leave it out, or give a "
            f"whole network: {', '.join(WHOLE_NETWORKS)}"
        )
    source = read_source(path)
    if bn_eps is not None:
        if not 0 <= bn_eps < 1:
            raise UserError(f"--bn_eps={bn_eps}: give a small number that is not negative")
        source = source._replace(layout=source.layout._replace(epsilon=bn_eps), knows_epsilon=True)
    config = _network_config(name, source, detector) if name in WHOLE_NETWORKS else None
    if config is None:
        config = _backbone_config(name, source)
    if not source.knows_epsilon:
        raise UserError(
            f"{path}: does not say the epsilon of its norms; give --bn_eps=0 for torchvision's "
            "COCO_V1 weights and for what was trained on from them, --bn_eps=1e-5 for others"
        )
    source, config = _with_overrides(source, config, overrides)
    pretrained = load_source(config, build_network(config), source)
    write_model(
        out, config, pretrained.collections, source=f"{source.layout.title}, {source.path.name}"
    )
    names = config.box.class_names if "box" in config else ()
    unnamed = (
        f"; its {len(names)} classes have numbers for names, --config.box.class_names gives others"
        if names and not are_known(names)
        else ""
    )
    return printable(f"{out}: {pretrained}{unnamed}")


def _network_config(name: str, source: Source, detector: str | None) -> ConfigDict | None:
    """Returns the config of a whole network, or of its first stages alone."""
    if source.config is None or not is_named(source.layout, source.config.detector, name):
        kind = f"a {source.config.detector}" if source.config else "another network"
        raise UserError(
            f"--model={name}: {source.path} holds {kind} by its last layers, "
            f"{source.layout.title}; give the file of that model, or the model of that file"
        )
    has, wanted = source.config.detector, detector or source.config.detector
    if wanted == has:
        return source.config.copy_and_resolve_references()
    if _STAGES.index(wanted) > _STAGES.index(has):
        missing = "second" if has == "rpn" else "third"
        raise UserError(f"--detector={wanted}: {source.path} holds no {missing} stage; give {has}")
    return source_config(name, wanted, len(source.config.box.class_names))


def _with_overrides(
    source: Source, config: ConfigDict, overrides: Sequence[str]
) -> tuple[Source, ConfigDict]:
    """Returns the config with overrides, and the source with the names that they give its classes.

    Raises:
        UserError: see `apply_overrides`; or there are more names than classes, or fewer.
    """
    theirs = config.box.to_dict() if "box" in config else None
    gives_ids = any(flag.startswith("--config.box.category_ids=") for flag in overrides)
    if theirs and not gives_ids:
        config.box.category_ids = ()  # which fit any number of names
    config = apply_overrides(config, overrides)
    if theirs is None:
        return source, config
    names, count = config.box.class_names, len(theirs["class_names"])
    if len(names) != count:
        raise UserError(
            f"--config.box.class_names: are {len(names)}, but {source.path} has {count} classes; "
            "name them all, in its order"
        )
    if not gives_ids:
        ids = dict(zip(theirs["class_names"], theirs["category_ids"], strict=False))
        is_known = any(name in ids for name in names)
        config.box.category_ids = tuple(ids.get(name, name) for name in names) if is_known else ()
    renamed = source.config.copy_and_resolve_references()
    renamed.box.class_names = names
    return source._replace(config=renamed), config


def _backbone_config(name: str, source: Source) -> ConfigDict:
    """Returns a config for a backbone with all stages, in the source's layout."""
    config = default_config()
    config.model.backbone = name
    config.model.output_stage = "c5"
    config.model.input_convention = source.layout.convention
    options = {"norm": source.layout.norm, "stride_in_1x1": source.layout.stride_in_1x1 or None}
    for option, value in options.items():
        if hasattr(BACKBONES[name](), option):
            config.model[option] = value
    config.model.pretrained_head = False
    return config
