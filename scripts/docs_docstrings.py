"""Shows docstrings as Markdown: examples and indented text as code, `Fields:` as attributes."""

import re

import griffe

_EXAMPLE = re.compile(r"(?:^[ ]*>>> .*\n?(?:^[ ]*\S.*\n?)*)+", re.MULTILINE)
# Without an empty line before and behind it, Markdown joins an indented block to the paragraph.
_INDENTED = re.compile(r"(?<=\S)\n((?:    \S.*(?:\n|$)(?:\n(?=    ))*)+)", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Changes docstrings before they are parsed."""

    def on_object(self, *, obj, **kwargs):
        """Changes the docstring of an object."""
        if not obj.docstring:
            return
        text = _EXAMPLE.sub(
            lambda match: f"```pycon\n{match[0].rstrip()}\n```\n", obj.docstring.value
        )
        text = re.sub(r"^Fields( beside .*)?:$", "Attributes:", text, flags=re.MULTILINE)
        if obj.is_module:
            text = _INDENTED.sub(r"\n\n\1\n", text)
        obj.docstring.value = text
