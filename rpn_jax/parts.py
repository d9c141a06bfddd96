"""Parts of one's own: a config names them by an import path, such as `mypackage.nets:my18`.

A name with a colon in it is an import path, MODULE:NAME; every other name is built in.
"""

import contextlib
import hashlib
import importlib
import inspect
import pathlib
import re
import sys
import traceback
from collections.abc import Iterator
from typing import Any

from rpn_jax.errors import UserError, first_line

_NAME = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
_PATH = re.compile(f"{_NAME}:{_NAME}")


def is_import_path(name: object) -> bool:
    """Returns whether a name is an import path, and no built-in name.

    >>> is_import_path("mypackage.nets:my18"), is_import_path("resnet18")
    (True, False)
    """
    return isinstance(name, str) and ":" in name


def import_part(field: str, path: str) -> Any:
    """Returns what an import path names, such as a class or a function.

    Args:
      field: the config's field that has the path, for messages.
      path: MODULE:NAME.

    Raises:
      UserError: it is no such path, the module cannot be imported, or has no such name.
    """
    where = f"{field}={path}"
    if not _PATH.fullmatch(path):
        raise UserError(f"{where}: give MODULE:NAME, such as mypackage.nets:my18")
    module, _, name = path.partition(":")
    try:
        part = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise UserError(f"{where}: {_why_not_imported(module, error)}") from error
    for attribute in name.split("."):
        if not hasattr(part, attribute):
            known = [known for known in vars(part) if not known.startswith("_")]
            near = f"; it has {', '.join(known[:8])}" if known else ""
            raise UserError(f"{where}: {module} has no {name}{near}; correct the name")
        part = getattr(part, attribute)
    return part


def _why_not_imported(module: str, error: BaseException) -> str:
    missing = getattr(error, "name", None)
    if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{missing}."):
        return (
            f"there is no module {missing}; install its package, name the folder that has it in "
            "PYTHONPATH, or give the command from that folder"
        )
    return f"{module} cannot be imported ({_raised(error)}); correct it"


def _raised(error: BaseException, file: str | None = None) -> str:
    """Returns the place of an error, the last in `file` if it went through it, and what it says."""
    lines = traceback.extract_tb(error.__traceback__)
    line = [*lines, *(line for line in lines if line.filename == file)][-1]
    place = f"{pathlib.Path(line.filename).name}, line {line.lineno}"
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{pathlib.Path(error.filename).name}, line {error.lineno}"
    return f"{place}: {type(error).__name__}: {first_line(error)}"


@contextlib.contextmanager
def running(field: str, path: str, *, reads_files: bool = False) -> Iterator[None]:
    """While a part runs: what it raises becomes a `UserError` of one line.

    A `UserError` stays what it is, and of a part that `reads_files`, a file that cannot be read.
    """
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        if reads_files and isinstance(error, OSError):
            raise
        file = getattr(sys.modules.get(path.partition(":")[0]), "__file__", None)
        raise UserError(f"{field}={path}: {_raised(error, file)}; correct it") from error


def check_call(field: str, path: str, part: Any, *args: Any, **fields: Any) -> None:
    """Raises a `UserError` that shows the call unless a part can be called with these arguments."""
    call = ", ".join([*map(str, args), *fields])
    try:
        inspect.signature(part).bind(*args, **fields)
    except (TypeError, ValueError) as error:
        raise wrong_part(field, path, f"cannot be called with ({call})", first_line(error)) from (
            error
        )


def wrong_part(field: str, path: str, what: str, why: str = "") -> UserError:
    """Returns the error of a part that is another thing than its field needs."""
    reason = f" ({why})" if why else ""
    return UserError(f"{field}={path}: {what}{reason}; docs/extending.md has an example")


def import_path(part: Any) -> str:
    """Returns the import path of a class or a function, for a field of a config.

    A config is kept as text, so that a run and its model file find the part again. Hence it must be
    in a module that can be imported.

    Args:
      part: the class or function.

    Raises:
      UserError: it cannot be imported: it has no name there, or is of a script or a notebook.

    >>> import pathlib
    >>> import_path(pathlib.Path.home)
    'pathlib:Path.home'
    """
    module, name = getattr(part, "__module__", None), getattr(part, "__qualname__", None)
    path = f"{module}:{name}"
    if module == "__main__":
        raise UserError(
            f"{name}: is defined in a script or notebook; move it to a module of a file"
        )
    found: Any = sys.modules.get(str(module))
    for attribute in str(name).split("."):
        found = getattr(found, attribute, None)
    if found is None or found != part:
        raise UserError(f"{part!r}: no module has it by a name; give it one there, as a function")
    return path


def hash_part(path: str) -> str | None:
    """Returns the SHA-256 of the Python files that a part comes from; None of one without a file.

    They are those of its outermost package, or its module's file where it is in no package.
    """
    module = sys.modules[path.partition(":")[0]]
    outermost = sys.modules[module.__name__.partition(".")[0]]
    if getattr(outermost, "__path__", None) and outermost.__file__:
        return hash_source(pathlib.Path(outermost.__file__).parent)
    return hash_source(pathlib.Path(module.__file__)) if module.__file__ else None


def hash_source(package: pathlib.Path) -> str:
    """Returns the SHA-256 over names and content of a package's Python files, or of one file."""
    digest = hashlib.sha256()
    folder, files = package, sorted(package.rglob("*.py"))
    if package.is_file():
        folder, files = package.parent, [package]
    for path in files:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()
