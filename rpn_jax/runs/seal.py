"""Seals: the SHA-256 of every file in a folder, by which later damage is noticed."""

import errno
import hashlib
import os
import pathlib

from rpn_jax.errors import UserError, list_some

SEAL = "SHA256SUMS"  # `sha256sum --check SHA256SUMS` reads it, too


def seal(folder: pathlib.Path) -> None:
    """Writes down the SHA-256 of every file in the folder, all of it safe on the disk."""
    lines = [f"{_digest(folder / name)}  {name}\n" for name in _names(folder)]
    # A comment to sha256sum. By the count a seal that has lost lines is told.
    lines.append(f"# {len(lines)} files\n")
    (folder / SEAL).write_text("".join(lines))
    for path in (*folder.rglob("*"), folder):
        flush(path)


def damage(folder: pathlib.Path) -> str | None:
    """Returns what has happened to the folder's files since they were sealed, None if nothing.

    Each file is read once. Files that have been added since, such as those of a file manager, are
    no damage; seals of earlier versions, which have no count, do not tell them from lost lines.

    Raises:
        UserError: they cannot be read, which says nothing about what they hold.
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


def _read_seal(folder: pathlib.Path) -> tuple[dict[str, str], bool]:
    """Returns the digest of each file, and whether their count was sealed too."""
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
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: pathlib.Path) -> None:
    """Has the system write a file or a folder's list of names to the disk now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
