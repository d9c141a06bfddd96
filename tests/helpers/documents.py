"""The documents of the project, and the blocks of code in them."""

import pathlib
import re
import shlex
from collections.abc import Iterator
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(r'^```(\w*)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block: its language, the name of the file that it shows, and its text."""

    language: str
    title: str
    text: str


def blocks(document: pathlib.Path, *languages: str) -> list[Block]:
    found = (Block(*match) for match in _BLOCK.findall(document.read_text()))
    return [block for block in found if not languages or block.language in languages]


def command_lines(document: pathlib.Path) -> Iterator[list[str]]:
    """Yields the words of each line of the shell blocks."""
    for block in blocks(document, "bash"):
        yield from command_words(block.text)


def command_words(text: str) -> Iterator[list[str]]:
    """Yields the words of each line of a shell block."""
    for line in text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line):
            yield words


def tree_files(text: str) -> list[str]:
    """Returns the files of a tree that is drawn with ├── and └──."""
    folders, files, lines = [], [], text.splitlines()[1:]
    depths = [line.index("── ") // 4 for line in lines]
    for line, depth, below in zip(lines, depths, [*depths[1:], -1], strict=True):
        folders[depth:] = [line.partition("── ")[2]]
        if below <= depth:
            files.append("/".join(folders))
    return files
