"""Seals: the SHA-256 of every file in a folder, to detect later damage; locks while it is read."""

import contextlib
import errno
import fcntl
import hashlib
import os
import pathlib
from collections.abc import Iterator

from rpn_jax.errors import UserError, list_some

SEAL = "SHA256SUMS"  # `sha256sum --check SHA256SUMS` reads it, too


def seal(folder: pathlib.Path) -> None:
    """Writes the SHA-256 of every file in the folder to a seal, and flushes all files to disk."""
    lines = [f"{_digest(folder / name)}  {name}\n" for name in _names(folder)]
    # A comment to sha256sum. The count shows whether a seal has lost lines.
    lines.append(f"# {len(lines)} files\n")
    (folder / SEAL).write_text("".join(lines))
    for path in (*folder.rglob("*"), folder):
        flush(path)


def damage(folder: pathlib.Path) -> str | None:
    """Returns how the folder's files were damaged since they were sealed, None if they were not.

    Each file is read once. Files added since then, such as those of a file manager, are no damage.
    Seals of earlier versions have no count, so added files look like lost lines there.

    Raises:
        UserError: the files cannot be read, which does not prove damage.
    """
    problems = []
    try:
        sealed, has_count = _read_seal(folder)
        for name, digest in sealed.items():
            try:
                if _digest(folder / name) != digest:
                    problems.append(f"{name} has changed")
            except FileNotFoundError:
                problems.append(f"{name} is missing")
        if not has_count:
            problems += [f"{n} has been added" for n in _names(folder) if n not in sealed]
    except FileNotFoundError:
        return f"{SEAL} is missing"
    except ValueError:
        return f"{SEAL} has changed"
    except OSError as error:
        if error.errno == errno.EIO:
            return str(error)
        raise UserError(f"{folder}: cannot be read ({error.strerror}); try again") from error
    return list_some(sorted(problems), limit=3) or None


@contextlib.contextmanager
def being_read(folder: pathlib.Path) -> Iterator[None]:
    """Keeps a sealed folder from being deleted during the block, see `unread`."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # it has no seal, or the file system no locks
            file = held.enter_context((folder / SEAL).open("rb"))
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield


@contextlib.contextmanager
def unread(folder: pathlib.Path) -> Iterator[bool]:
    """Yields whether no process reads the folder; during the block none begins to."""
    with contextlib.ExitStack() as held:
        try:
            file = held.enter_context((folder / SEAL).open("r+b"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:
            pass
        yield True


def _read_seal(folder: pathlib.Path) -> tuple[dict[str, str], bool]:
    """Returns the digest of each file, and whether the seal has their count."""
    if not (folder / SEAL).is_file():
        raise FileNotFoundError(folder / SEAL)
    lines = (folder / SEAL).read_text().splitlines()
    counts = [line for line in lines if line.startswith("#")]
    sealed = {
        name: digest
        for digest, name in (line.split("  ", 1) for line in lines if line not in counts)
    }
    if any(count != f"# {len(sealed)} files" for count in counts):
        raise ValueError(counts)
    return sealed, bool(counts)


def _names(folder: pathlib.Path) -> list[str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SEAL)
    return [path.relative_to(folder).as_posix() for path in files]


def _digest(path: pathlib.Path) -> str:
    if not path.is_file():  # a pipe would be waited for
        raise FileNotFoundError(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: pathlib.Path) -> None:
    """Flushes a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
