"""Configs from Python files of users, JSON of runs and overrides on the command line.

Reading the JSON of an earlier version upgrades it.
"""

import ast
import contextlib
import copy
import functools
import json
import os
import pathlib
import re
import runpy
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

from rpn_jax.errors import UserError, first_line
from rpn_jax.files import user_path
from rpn_jax.runs.config import default_config, flatten
from rpn_jax.runs.fields import (
    FIELDS,
    STAGES,
    VERSION,
    check_config,
    check_names,
    fields_of,
    no_such_field,
)
from rpn_jax.runs.fields import flatten as flat_fields

_SHIPPED = pathlib.Path(__file__).parents[1] / "configs"


def load_config(path: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """Returns the config of a file with `--config.field=value` overrides applied, locked.

    The file is a Python file with `get_config()`, or a run's `config.json`. `path` may also be the
    bare name of a shipped config, such as `shapes`.

    Raises:
        UserError: the file is missing or fails; see also `apply_overrides`.
    """
    of_run = pathlib.Path(path).expanduser()
    if of_run.suffix == ".json" and of_run.is_file():
        return apply_overrides(from_json(of_run.read_text(), path), overrides)
    if of_run.is_file() and of_run.suffix != ".py":
        raise UserError(
            f"--config={path}: is no .py file; give one, a run's config.json, or the name of a "
            "shipped config; a file of weights is given as --weights, or to train as "
            "--config.model.pretrained"
        )
    with names_in_file("--config", path) as names:
        if "get_config" not in names:
            raise UserError("defines no get_config()")
        config = names["get_config"]()
        if not isinstance(config, ConfigDict):
            raise UserError(
                f"get_config() returns {config if config is None else type(config).__name__}; it "
                "is to return default_config(), with some fields changed"
            )
        check_names(config)
    return apply_overrides(config.lock(), overrides)


@contextlib.contextmanager
def names_in_file(flag: str, path: str, kind: str = ".") -> Iterator[dict[str, Any]]:
    """Yields the names that a user's Python file defines, with their values.

    `path` may also be the bare name of a shipped file in the folder `kind` of `rpn_jax.configs`.

    Raises:
        UserError: the file is missing; the file or the block fails.
    """
    file = user_path(path)
    if not file.is_file():
        shipped = {file.stem: file for file in sorted((_SHIPPED / kind).glob("[!_]*.py"))}
        if path not in shipped:
            raise UserError(
                f"{flag}={path}: no such file; give one, or a shipped one: {', '.join(shipped)}"
            )
        file = shipped[path]
    # A variant imports its parent by name from the same folder.
    sys.path.insert(0, str(file.resolve().parent))
    try:
        yield runpy.run_path(str(file))
    except UserError as error:
        raise UserError(f"{flag}={path}: {error}") from error
    except Exception as error:
        raise UserError(f"{flag}={path}: {_explained(error, file)}") from error
    finally:
        sys.path.pop(0)


def _explained(error: Exception, file: pathlib.Path) -> str:
    """Returns a line about an error in a config's file, or in a file of the same folder."""
    if isinstance(error, SyntaxError) and error.filename:  # of `file`, or of one that it imports
        return f"{pathlib.Path(error.filename).name}, line {error.lineno}: SyntaxError: {error.msg}"
    lines = [
        line
        for line in traceback.extract_tb(error.__traceback__)
        if pathlib.Path(line.filename).resolve().parent == file.resolve().parent
    ]
    if not lines:
        return f"{type(error).__name__}: {first_line(error)}"
    last, text = lines[-1], first_line(error)
    where = f"{pathlib.Path(last.filename).name}, line {last.lineno}"
    # A ConfigDict's messages for an unknown field, when it is set and when it is read.
    absent = re.search(r'Key "(\w+)" does not exist', text) or re.match(
        r"\W*(\w+)\W*(nDid you mean.*)?$", text
    )
    field = absent and re.search(rf"\.((?:\w+\.)*{absent[1]})\b", last.line or "")
    if isinstance(error, AttributeError | KeyError) and field:
        return no_such_field(f"{where}: {last.line}", field[1])
    wrong = re.search(r"override field '\w+'.* to type <class '(\w+)'>", text)
    if wrong:
        return f"{where}: {last.line}: give a value of type {wrong[1]}"
    return f"{where}: {type(error).__name__}: {text}"


def apply_overrides(
    config: ConfigDict, overrides: Sequence[str], prefix: str = "--config."
) -> ConfigDict:
    """Returns the config with each `--config.field=value` in it, locked; its fields are checked.

    `None` clears a field whose default is None. `prefix` is what the flags begin with. Options of
    one dataset mean nothing to another: where the flags name another, the config's are dropped.

    Raises:
        UserError: a field is unknown (the message has the nearest one), or its value is not
            allowed, see `fields.FIELDS`.
    """
    dataset = f"{prefix}data.dataset="
    for override in overrides:
        if override.startswith(dataset):
            name_dataset(config, override.removeprefix(dataset))
    for override in overrides:
        _apply_override(config, override, prefix)
    check_config(config)
    return config


def name_dataset(config: ConfigDict, name: str) -> None:
    """Sets `config.data.dataset`; the options of another dataset are dropped."""
    if name != config.data.dataset:
        config.data.dataset, config.data.options = name, ConfigDict()


# Fields that determine the other fields.
_FIXED = {
    "version": "is that of the fields, and no setting; leave it out",
    "detector": "decides which fields there are; give it to default_config() in a file of --config",
}


def _apply_override(config: ConfigDict, override: str, prefix: str) -> None:
    field, equals, text = override.removeprefix(prefix).partition("=")
    known = flatten(config)
    if field == "--config":  # of a command that has no such flag
        raise UserError(
            f"{field}: a trained network has its config; leave this out, and give what is to be "
            f"otherwise as {prefix}FIELD=VALUE"
        )
    if field in _FIXED:
        raise UserError(f"{prefix}{field}: {_FIXED[field]}")
    option = field.removeprefix("data.options.")
    if equals and option != field and "." not in option and field not in known:
        # The dataset knows which options it has.
        with config.data.options.unlocked():
            config.data.options[option] = _literal(text)
        return
    if not override.startswith(prefix) or field not in known:
        where = override.partition("=")[0]
        raise UserError(no_such_field(where, moved_field(field), prefix, known))
    if not equals:
        raise UserError(f"{override}: write {prefix}{field}=VALUE")
    *groups, name = field.split(".")
    group = functools.reduce(ConfigDict.__getitem__, groups, config)
    kind = group.get_type(name)
    value = text
    try:
        if text == "None" and field in FIELDS and FIELDS[field].default is None:
            value = None
        elif kind is not str:
            value = ast.literal_eval(text.capitalize() if kind is bool else text)
            if value is None or (kind is bool and not isinstance(value, bool)):
                raise TypeError
        group[name] = value
    except (TypeError, ValueError, SyntaxError) as error:
        example = f"a value of type {kind.__name__}, such as {group[name]!r}"
        if kind is tuple and not group[name]:
            example = f"a tuple of {FIELDS[field].rule.words}"
        elif kind is float and text.lstrip("+-").lower() in ("nan", "inf") and field in FIELDS:
            example = FIELDS[field].rule.words  # they are floats
        raise UserError(f"{override}: give {example}") from error


def _literal(text: str) -> Any:
    """Returns the value of a Python literal, or the text if it is none."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def differences(ours: ConfigDict, saved: ConfigDict) -> list[str]:
    """Returns a line for each field that differs, such as `batch_size: 2 here, 1 there`.

    Of two kinds of detectors it leaves out the fields that only one has.
    """
    ours, saved = flatten(located(ours)), flatten(located(saved))
    absent = "(absent)"
    same_kind = ours["detector"] == saved["detector"]
    fields = ours.keys() | saved.keys() if same_kind else ours.keys() & saved.keys()
    return [
        f"{field}: {ours.get(field, absent)} here, {saved.get(field, absent)} there"
        for field in sorted(fields)
        if ours.get(field, absent) != saved.get(field, absent)
    ]


def located(config: ConfigDict) -> ConfigDict:
    """Returns the config with absolute paths of the data."""
    config = ConfigDict(config)
    files = (
        (config.fork, "run"),
        (config.data, "source"),
        *((config.data.get("proposals"), n) for n in ("train", "eval")),
    )
    for group, name in files:
        if group and group[name]:
            group[name] = _absolute(group[name])
    config.data.more_sources = tuple(map(_absolute, config.data.more_sources))
    return config


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def to_json(config: ConfigDict) -> str:
    """Returns the config as indented JSON; `from_json` reads it back."""
    return json.dumps(config.to_dict(), indent=2)


def from_json(text: str, where: str = "config.json") -> ConfigDict:
    """Returns the config of a `to_json` text, with the types of `default_config()`.

    Raises:
        UserError: the text is no config, or has a field that this version of the project lacks;
            the message begins with `where`, the text's origin.
    """
    wrong = "{}; the config is damaged, or of another version of rpn_jax".format
    try:
        fields = upgrade(json.loads(text))
    except (RecursionError, ValueError) as error:
        raise UserError(wrong(f"{where}: {first_line(error)}")) from error
    detector, data = fields.get("detector"), fields.get("data")
    if detector not in list(STAGES):
        raise UserError(wrong(f"{where}: detector={detector!r}: give {' or '.join(STAGES)}"))
    if not isinstance(data, dict) or not isinstance(data.get("options"), dict):
        raise UserError(wrong(f"{where}: data.options: is missing, or no object"))
    config, known = default_config(detector), fields_of(detector)
    config.data.options = data.pop("options")
    for name, value in flat_fields(fields).items():
        if name not in known:
            raise UserError(wrong(no_such_field(f"{where}: {name}", name, known=known)))
        try:
            config.update_from_flattened_dict({name: _with_tuples(value)})
        except (TypeError, ValueError) as error:
            words = known[name].rule.words
            raise UserError(wrong(f"{where}: {name}={value!r:.60}: give {words}")) from error
    return config


def _with_tuples(value: Any) -> Any:
    """Returns a JSON value with tuples in place of lists, at every depth."""
    if isinstance(value, dict):
        return {name: _with_tuples(inner) for name, inner in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


# Fields of version 1, which had the RPN alone, and their names in version 2.
_MOVED = {
    "anchors": "rpn.anchors",
    "targets": "rpn.targets",
    "box_weights": "rpn.box_weights",
    "loss": "rpn.loss",
    "proposals": "rpn.proposals",
    "model.head_channels": "rpn.channels",
    "model.objectness": "rpn.objectness",
}


def upgrade(fields: Any) -> dict[str, Any]:
    """Returns the fields of a config's JSON, renamed to those of the newest version.

    Version 1 had no version number; its groups at the top are now in `rpn`.

    Raises:
        ValueError: the fields are of a later version, or no fields.
    """
    if not isinstance(fields, dict):
        raise ValueError("holds no fields")
    version = fields.get("version", 1)
    if version == VERSION:
        return fields
    if version != 1:
        raise ValueError(f"version is {version}, and this rpn_jax knows {VERSION}; install a newer")
    upgraded = copy.deepcopy({**fields, "version": VERSION, "detector": "rpn"})
    for old, new in _MOVED.items():
        *groups, name = old.split(".")
        group = upgraded.get(groups[0]) if groups else upgraded
        if isinstance(group, dict) and name in group:
            upgraded.setdefault("rpn", {})[new.removeprefix("rpn.")] = group.pop(name)
    return upgraded


def moved_field(name: str) -> str:
    """Returns the newest version's name of a field of version 1."""
    for old, new in _MOVED.items():
        if name == old or name.startswith(f"{old}."):
            return new + name.removeprefix(old)
    return name
