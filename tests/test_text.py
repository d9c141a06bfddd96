"""Names from outside, as terminals, spreadsheets and Markdown are shown them."""

import shutil
import subprocess

import pytest

from rpn_jax.errors import StoppedError, UserError, first_line, list_some
from rpn_jax.tables import format_table
from rpn_jax.text import csv_cell, markdown, printable, shell_line

TITLE = "a\x1b]0;owned\x07b"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ß 日本 a\u3000b\u00a0c 😀", "plain ß 日本 a\u3000b\u00a0c 😀"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\x9b31mred", r"\x9b31mred"),  # the same in one byte of C1
        (TITLE, r"a\x1b]0;owned\x07b"),
        ("two\r\nlines\ttab", r"two\r\nlines\ttab"),
        ("gpj.\u202egnp", r"gpj.\u202egnp"),  # right to left
        ("\u2028\x00\x7f", r"\u2028\x00\x7f"),
        (b"\xff.jpg".decode("utf-8", "surrogateescape"), r"\udcff.jpg"),
        ("C:\\new", "C:\\new"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text, shown):
    assert printable(text) == shown
    assert printable(shown) == shown


def test_errors_are_one_line_whatever_they_name():
    assert str(UserError(f"{TITLE}\n: is bad")) == r"a\x1b]0;owned\x07b\n: is bad"
    assert str(StoppedError(TITLE)) == r"a\x1b]0;owned\x07b"
    assert first_line(ValueError(f"{TITLE}\nmore")) == r"a\x1b]0;owned\x07b"
    assert list_some([TITLE, "c"]) == r"a\x1b]0;owned\x07b, c"


def test_a_table_is_aligned_by_what_is_shown():
    assert format_table([["class", "boxes"], ["a\nb", "1"], ["cats", "10"]]).splitlines() == [
        "class  boxes",
        r"a\nb       1",
        "cats      10",
    ]


def test_columns_of_a_table():
    rows = [["a", "b", "c"], ["long", "1", "2"], ["a heading that is wider"]]
    assert format_table(rows).splitlines() == [
        "a     b  c",
        "long  1  2",
        "a heading that is wider",
    ]
    assert format_table(rows[:2], names=0).splitlines() == ["   a  b  c", "long  1  2"]
    assert format_table([["only"], ["headings"]]) == "only\nheadings"


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+1+1", "'+1+1"),
        ("-2+3", "'-2+3"),
        ("@SUM(1)", "'@SUM(1)"),
        ("\t=1", r"'\t=1"),
        ("a=b", "a=b"),
        ("-0.25", "-0.25"),
        ("", ""),
        (-0.25, -0.25),
        (None, None),
        ("a\x1b[31m", r"a\x1b[31m"),
    ],
)
def test_a_spreadsheet_computes_nothing(value, cell):
    assert csv_cell(value) == cell


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("x](javascript:alert(1))", r"x\](javascript:alert(1))"),
        ("![a](b)", r"!\[a\](b)"),
        ("`a` | *b* _c_", r"\`a\` \| \*b\* \_c\_"),
        ("a\n# title", r"a\\n# title"),
        ("AR@300: 0.50 to 0.95", "AR@300: 0.50 to 0.95"),
    ],
)
def test_markdown_shows_text_as_it_is(text, shown):
    assert markdown(text) == shown


WORDS = [
    "a b", "$(touch x)", "it's", "back\\slash's\n", "\x1b]0;t\x07", "\x9b", "\u202e", "\udcff",
    "-x", "<script>", "a](b)",
]  # fmt: skip


def test_a_command_can_be_copied():
    line = shell_line(["printf", "%s|", *WORDS])
    assert line.isprintable()
    assert shell_line(["git", "checkout", "c0ffee; rm -rf ~"]) == "git checkout 'c0ffee; rm -rf ~'"
    if bash := shutil.which("bash"):
        said = subprocess.run(
            [bash, "-c", line], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"}
        ).stdout
        assert said.decode("utf-8", "surrogateescape").split("|")[:-1] == WORDS
