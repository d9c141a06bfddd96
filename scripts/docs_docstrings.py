"""Shows the examples of docstrings as code: to Markdown a bare >>> is a quotation."""

import re

import griffe

_EXAMPLE = re.compile(r"(?:^[ ]*>>> .*\n?(?:^[ ]*\S.*\n?)*)+", re.MULTILINE)


class FencedExamples(griffe.Extension):
    """Puts fences round doctest examples."""

    def on_object(self, *, obj, **kwargs):
        """Changes the docstring of an object before it is parsed."""
        if obj.docstring:
            obj.docstring.value = _EXAMPLE.sub(
                lambda match: f"```pycon\n{match[0].rstrip()}\n```\n", obj.docstring.value
            )
