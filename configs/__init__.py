"""The shipped configs: each a file to read, to copy, or to start a config of one's own from.

    from rpn_jax.configs import bccd

    def get_config():
        config = bccd()
        config.steps = 1600
        return config

The folder stands at the top of the repository; in the package it is `rpn_jax.configs`.
"""

import importlib
import pathlib
import types

_FOLDER = pathlib.Path(__file__).parent


class _ConfigFile(types.ModuleType):
    """A config's module, which can also be called for its config."""

    def __call__(self, *args):
        return self.get_config(*args)


def __dir__():
    return sorted(path.stem for path in _FOLDER.glob("[!_]*.py"))


def __getattr__(name):
    if name not in __dir__():
        raise AttributeError(f"there is no config {name!r}; there are {', '.join(__dir__())}")
    module = importlib.import_module(f"{__name__}.{name}")
    module.__class__ = _ConfigFile
    return module
