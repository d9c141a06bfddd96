"""The shipped configs: each a file to read, to copy, or to start a config of one's own from.

    from rpn_jax.configs import bccd

    def get_config():
        config = bccd()
        config.steps = 1600
        return config

A config of another kind of detector has all the fields that both have, and defaults for the rest:

    config = shapes_faster_rcnn("fast_rcnn")

The folder stands at the top of the repository; in the package it is `rpn_jax.configs`.
"""

import importlib
import inspect
import pathlib
import types

_FOLDER = pathlib.Path(__file__).parent


class _ConfigFile(types.ModuleType):
    """A config's module, which can also be called for its config."""

    def __call__(self, detector=None):
        """Returns the file's config, or that of another kind of detector."""
        if detector is None:
            return self.get_config()
        from rpn_jax.runs.config import of_kind

        if not inspect.signature(self.get_config).parameters:
            return of_kind(self.get_config(), detector)
        if detector == "fast_rcnn":  # such a file sets fields of an RPN
            return of_kind(self.get_config("faster_rcnn"), detector)
        return self.get_config(detector)


def __dir__():
    return sorted(path.stem for path in _FOLDER.glob("[!_]*.py"))


def __getattr__(name):
    if name not in __dir__():
        raise AttributeError(f"there is no config {name!r}; there are {', '.join(__dir__())}")
    module = importlib.import_module(f"{__name__}.{name}")
    module.__class__ = _ConfigFile
    return module
