"""Configs in memory: the default config, and values derived from a config.

A file in `configs/` starts from `default_config()` and changes some fields. `fields.py` lists the
fields.
"""

import jax
from ml_collections.config_dict import ConfigDict, placeholder

from rpn_jax.runs import fields
from rpn_jax.runs.fields import VERSION, fields_of

__all__ = ["VERSION", "default_config", "flatten", "of_kind", "random_key", "sizes_per_level"]


def default_config(detector: str = "rpn") -> ConfigDict:
    """Returns a config with every field of a kind of detector.

    A config file can change fields but not add any, so that a field without effect is refused.

    Args:
        detector: "rpn", "faster_rcnn", "mask_rcnn" or "fast_rcnn".

    Raises:
        UserError: there is no such kind.
    """
    config = ConfigDict()
    for name, (default, rule, _) in fields_of(detector).items():
        *groups, last = name.split(".")
        group = config
        for part in groups:
            if part not in group:
                group[part] = ConfigDict()
            group = group[part]
        if default is None:
            default = placeholder(rule.kind)
        group[last] = ConfigDict(default) if isinstance(default, dict) else default
    config.detector = detector
    return config.lock()


def of_kind(config: ConfigDict, detector: str) -> ConfigDict:
    """Returns a config of another kind of detector, with all fields that both have."""
    other, known = default_config(detector), fields_of(detector)
    other.data.options = config.data.options.copy_and_resolve_references()
    shared = {name: value for name, value in fields.flatten(config).items() if name in known}
    other.update_from_flattened_dict({**shared, "detector": detector})
    return other


def flatten(config: ConfigDict) -> dict[str, object]:
    """Returns the config as `{"data.shorter_side": 600, …}` with values of JSON's types."""
    return {name: _with_lists(value) for name, value in fields.flatten(config).items()}


def _with_lists(value: object) -> object:
    return list(map(_with_lists, value)) if isinstance(value, tuple | list) else value


def random_key(config: ConfigDict) -> jax.Array:
    """Returns the random key of a run, from which all keys on devices derive."""
    return jax.random.key(config.seed)


def sizes_per_level(config: ConfigDict) -> tuple[tuple[float | int, ...], ...]:
    """Returns the sizes of each level's anchors, finest first.

    Plain numbers are the sizes of a single level. `rules.SIZES` says which sizes are allowed.
    """
    sizes = config.rpn.anchors.sizes
    return sizes if isinstance(sizes[0], tuple | list) else (sizes,)
