"""Pages of the documentation that are made of the code, and links from pages to lines of it."""

import argparse
import ast
import itertools
import pathlib
import posixpath
import re
import textwrap
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
# Files at the top that are pages too, by the pages' names.
TOP = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
# Pages in docs/ that no file there holds.
MADE = {"fields.md", "commands.md", *TOP}
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
FENCED = re.compile(r"^(```+|~~~+).*?^\1\s*$", re.MULTILINE | re.DOTALL)


def fields_page() -> str:
    """Returns the page of every field of a config."""
    from rpn_jax.runs.fields import STAGES
    from rpn_jax.runs.reference import GROUPS, PAPERS, detectors_with, entries

    papers = ", ".join(
        f"[{name}](https://arxiv.org/abs/{number})" for name, number in PAPERS.items()
    )
    lines = [
        "# Fields of a config",
        "",
        "This page is made from [`FIELDS`](../rpn_jax/runs/fields.py), which every config is held"
        " against. On the command line a field is `--config.GROUP.FIELD=VALUE`, in a file"
        " `config.GROUP.FIELD = VALUE`."
        " `rpn-jax info --fields=GROUP` prints the same.",
        "",
        f"Sections are those of {papers}.",
    ]
    for group, words in GROUPS.items():
        kinds = detectors_with(group)
        only = "" if len(kinds) == len(STAGES) else f" Only of {_listed(kinds)}."
        lines += ["", f"## {group or 'Top'}", "", f"{words[0].upper()}{words[1:]}.{only}"]
        for entry in entries(group):
            source = f" · {entry.source}" if entry.source else ""
            lines += [
                "",
                f'<span id="{entry.name}" class="field">`{entry.name}` = `{entry.default}`</span>',
                f":   {_escaped(entry.meaning)}",
                "",
                f"    {entry.kind} · {_escaped(entry.words)}{source}",
                "    {: .rule }",
            ]
    return "\n".join(lines) + "\n"


def _listed(kinds: list[str]) -> str:
    return " and ".join(
        filter(None, [", ".join(f"`{kind}`" for kind in kinds[:-1]), f"`{kinds[-1]}`"])
    )


def _escaped(text: str) -> str:
    """Returns plain text as Markdown that shows it."""
    return re.sub(r"([*_`\[\]<>])", r"\\\1", text).replace("__", r"\_\_")


def commands_page() -> str:
    """Returns the page of every command: its help, and its flags."""
    from rpn_jax.__main__ import COMMANDS, command_parser

    (commands,) = (
        action
        for action in command_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    lines = [
        "# Commands",
        "",
        "This page is made of what `rpn-jax COMMAND --help` prints. Every command also takes"
        " `--traceback`, which shows where in the code an error arose, and those with a config"
        " take [its fields](fields.md), `--config.GROUP.FIELD=VALUE`.",
        "",
        "The exit status is 0; 1 for an error, which is one line; 75 when a run was asked to stop"
        " and goes on if the same command is given again; 130 after Ctrl-C.",
    ]
    for name in COMMANDS:
        parser = commands.choices[name]
        lines += ["", f"## {name}", "", *_as_markdown(str(parser.description)), *_flags(parser)]
    return "\n".join(lines) + "\n"


def _as_markdown(docstring: str) -> Iterator[str]:
    """Yields a docstring's paragraphs, with those that are indented as code."""
    for paragraph in re.split(r"\n\n+", docstring.strip("\n")):
        for is_code, group in itertools.groupby(paragraph.split("\n"), lambda x: x[:1] == " "):
            text = "\n".join(group)
            if is_code:
                yield from ["", "~~~~text", textwrap.dedent(text), "~~~~"]
            else:
                yield from ["", "`".join(_even_escaped(text.split("`")))]


def _even_escaped(pieces: list[str]) -> list[str]:
    """Returns pieces of a text between backticks, of which every second one is code."""
    return [piece if i % 2 else _escaped(piece) for i, piece in enumerate(pieces)]


def _flags(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yields what each flag of a command is for."""
    formatter = parser._get_formatter()
    for group in parser._action_groups:
        flags = [a for a in group._group_actions if a.dest not in ("help", "traceback")]
        if flags and group.description:
            yield from ["", f"{_escaped(group.title)}: {_escaped(group.description)}"]
        for action in flags:
            names = formatter._format_action_invocation(action)
            yield from ["", f"`{names}`", f":   {_escaped(formatter._expand_help(action))}"]


def markdown_of(page: str) -> str:
    """Returns the Markdown that a page is written in."""
    return (ROOT / TOP[page] if page in TOP else DOCS / page).read_text()


def with_links_to_code(page: str, markdown: str) -> str:
    """Returns a page whose links to files outside of docs/ lead to pages with their text.

    A link whose text is a name in backticks, of something that the file defines, leads to its line.
    """
    home = "." if page in TOP else f"docs/{posixpath.dirname(page)}"

    def other(match: re.Match) -> str:
        text, target = match.groups()
        if ":" in target or target.startswith("#"):
            return match[0]
        path, sign, anchor = target.partition("#")
        path = posixpath.normpath(posixpath.join(home, path))
        page_of = {file: name for name, file in TOP.items()}
        if path in page_of:
            path = page_of[path]
        elif path.startswith("docs/"):
            path = re.sub(r"\.ipynb$", ".md", path.removeprefix("docs/"))
        else:
            line = line_of(ROOT / path, text.strip("`"))
            sign, anchor = ("#", f"__codelineno-0-{line}") if line else ("", "")
            path = source_page(path)
        return f"[{text}]({posixpath.relpath(path, posixpath.dirname(page) or '.')}{sign}{anchor})"

    return outside_of_code(LINK, other, markdown)


def outside_of_code(pattern: re.Pattern, replace, markdown: str) -> str:
    """Returns the text with a pattern replaced wherever it stands in no fenced block."""
    parts, end = [], 0
    for block in FENCED.finditer(markdown):
        parts += [pattern.sub(replace, markdown[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*parts, pattern.sub(replace, markdown[end:])])


def linked_files(page: str, markdown: str) -> Iterator[str]:
    """Yields the files outside of docs/ that a page links to."""
    home = "." if page in TOP else f"docs/{posixpath.dirname(page)}"
    for _, target in LINK.findall(FENCED.sub("", markdown)):
        path = posixpath.normpath(posixpath.join(home, target.partition("#")[0]))
        outside = not path.startswith("docs/") and path not in TOP.values()
        if ":" not in target and not target.startswith("#") and outside:
            yield path


def source_page(path: str) -> str:
    """Returns the name of the page with the text of a file."""
    return f"source/{path}.md"


def source_of(path: str) -> str:
    """Returns the page with the text of a file, its lines numbered."""
    suffix = pathlib.Path(path).suffix
    language = {".py": "python", ".sh": "bash", ".md": "markdown"}.get(
        suffix, "bash" if not suffix else "text"
    )
    text = (ROOT / path).read_text()
    return (
        f"---\nhide: [toc]\nsearch: {{exclude: true}}\n---\n# {path}\n\n"
        f'~~~~~~~~{{.{language} linenums="1"}}\n{text}\n~~~~~~~~\n'
    )


def line_of(file: pathlib.Path, name: str) -> int | None:
    """Returns the line on which a Python file defines a name, such as `nms` or `RPN.losses`."""
    if file.suffix != ".py" or not re.fullmatch(r"[\w.]+", name):
        return None
    body = ast.parse(file.read_text()).body
    line = None
    for part in name.split("."):
        found = [node for node in body if part in _names(node)]
        if not found:
            return None
        line, body = found[0].lineno, getattr(found[0], "body", [])
    return line


def _names(node: ast.AST) -> set[str]:
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    return {getattr(node, "name", None)} | {getattr(target, "id", None) for target in targets}


def math(source: str, language: str, css_class: str, options, md, **kwargs) -> str:
    """Returns the MathML of a formula in LaTeX, which browsers show without a script."""
    from latex2mathml.converter import convert

    return f'<div class="{css_class}">{convert(source, display="block")}</div>'
