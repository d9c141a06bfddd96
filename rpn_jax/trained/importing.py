"""Import of other projects' weights into a model file."""

import pathlib
from collections.abc import Sequence

from ml_collections import ConfigDict

from rpn_jax.errors import UserError
from rpn_jax.models.backbones import BACKBONES
from rpn_jax.runs.config import default_config
from rpn_jax.runs.config_files import apply_overrides
from rpn_jax.text import printable
from rpn_jax.training.build import build_network
from rpn_jax.weights.model_file import write_model
from rpn_jax.weights.sources import WHOLE_NETWORKS, Source, load_source, read_source

NAMES = (*BACKBONES, *WHOLE_NETWORKS)


def import_weights(
    path: pathlib.Path,
    name: str,
    out: pathlib.Path,
    overrides: Sequence[str] = (),
    bn_eps: float | None = None,
) -> str:
    """Converts another project's weights file to a model file; returns lines about the result.

    Args:
        path: file to read.
        name: name of a backbone, imported alone and up to c5, or of a whole network.
        out: model file to write.
        overrides: `--config.field=value` for the model file's config.
        bn_eps: epsilon of the source's batch normalisation, if it differs from its project's. A
            Faster R-CNN of torchvision needs it, unless it is a published file.

    Raises:
        UserError: the file cannot be read, is not of that network, or does not fit the config; or
            the epsilon is not known.
    """
    if name not in NAMES:
        raise UserError(f"--model={name}: is unknown; use one of {', '.join(NAMES)}")
    source = read_source(path)
    if bn_eps is not None:
        if not 0 <= bn_eps < 1:
            raise UserError(f"--bn_eps={bn_eps}: give a small number that is not negative")
        source = source._replace(layout=source.layout._replace(epsilon=bn_eps), knows_epsilon=True)
    if name in WHOLE_NETWORKS:
        if name != source.layout.name:
            raise UserError(
                f"--model={name}: {path} holds something else, {source.layout.title}; "
                "give the file of that model, or the model of that file"
            )
        config = source.config
    else:
        config = _backbone_config(name, source)
    if not source.knows_epsilon:
        raise UserError(
            f"{path}: does not say the epsilon of its norms; give --bn_eps=0 for torchvision's "
            "COCO_V1 weights and for what was trained on from them, --bn_eps=1e-5 for others"
        )
    config = apply_overrides(config, overrides)
    pretrained = load_source(config, build_network(config), source)
    write_model(
        out, config, pretrained.collections, source=f"{source.layout.title}, {source.path.name}"
    )
    return printable(f"{out}: {pretrained}")


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
