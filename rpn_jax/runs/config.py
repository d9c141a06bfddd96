"""Configs in memory: one with every field, and what is read from one.

A file in `configs/` starts from `default_config()` and changes what it needs. What the fields are
stands in `fields.py`.
"""

import jax
from ml_collections.config_dict import ConfigDict, placeholder

from rpn_jax.runs import fields
from rpn_jax.runs.fields import FIELDS, VERSION

__all__ = ["VERSION", "default_config", "flatten", "random_key", "sizes_per_level"]


def default_config(detector: str = "rpn") -> ConfigDict:
    """Returns a config with every field of a kind of detector.

    A config can change them but not add any, so that a field without effect is refused.
    """
    config = ConfigDict()
    for name, (default, rule, _) in FIELDS.items():
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


def flatten(config: ConfigDict) -> dict[str, object]:
    """Returns the config as `{"data.shorter_side": 600, …}` with values as JSON has them."""
    return {name: _with_lists(value) for name, value in fields.flatten(config).items()}


def _with_lists(value: object) -> object:
    return list(map(_with_lists, value)) if isinstance(value, tuple | list) else value


def random_key(config: ConfigDict) -> jax.Array:
    """Returns the key that all of a run's randomness on devices is drawn from."""
    return jax.random.key(config.seed)


def sizes_per_level(config: ConfigDict) -> tuple[tuple[float | int, ...], ...]:
    """Returns the sizes of each level's anchors, finest first.

    Numbers alone are those of the only level. `rules.SIZES` says what is allowed.
    """
    sizes = config.rpn.anchors.sizes
    return sizes if isinstance(sizes[0], tuple | list) else (sizes,)
