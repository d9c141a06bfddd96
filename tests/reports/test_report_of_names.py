"""Reports on runs, classes and starts whose names were chosen by somebody else."""

import csv
import json
import re

import numpy as np
import pytest
from studies import STARTED, Page, begun, evaluated, rows_of

from rpn_jax.__main__ import main
from rpn_jax.files import write_npz, write_text
from rpn_jax.reports.report import write_report
from rpn_jax.text import printable

HOSTILE = "=a$b$ x](javascript:alert(1))<script>alert(1)<img src=x>`|*\x1b[31m\n"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory, source, dataset):
    """A report on two runs whose names, classes and starts were chosen by somebody else."""
    root = tmp_path_factory.mktemp("hostile")
    for number, share in enumerate((0.72, 0.92)):
        folder = begun(
            root / f"{HOSTILE}{number}", source, f"--config.rpn.loss.balance={number + 1}.0"
        )
        evaluated(folder, dataset, share)
        facts = STARTED | {"code": {"commit": "c0ffee; touch x\n```\n<b>", "local_changes": "1"}}
        write_text(folder / "runs.jsonl", json.dumps(facts) + "\n")
    file = folder / "evaluation/train/objects.npz"
    with np.load(file) as arrays:
        names = [f"{name}{HOSTILE}" for name in arrays["class_names"]]
        write_npz(file, **{**arrays, "class_names": np.array(names)})
    out = root / "report of both"
    return folder, out, write_report([folder.parent], out), write_report([folder], root / "of one")


@pytest.mark.parametrize("place", ["report of both", "of one"])
def test_names_from_outside_are_shown_as_they_are(hostile, place):
    out = hostile[1].with_name(place)
    page_text = (out / "report.html").read_text()
    page = Page(page_text)
    assert not {"script", "b"} & page.tags
    assert all(image.startswith("data:image/") for image in page.images)
    markdown = (out / "report.md").read_text()
    assert "<script" not in markdown
    # The code blocks end where they should, and hold one line a command.
    blocks = re.findall("^```bash\n(.*?)\n```$", markdown, re.MULTILINE | re.DOTALL)
    assert blocks[0].splitlines()[0] == r"git checkout $'c0ffee; touch x\n```\n\x3cb>'"
    assert [line.split()[0] for line in blocks[0].splitlines()] == ["git", "git", "python"]
    # No bracket of a name closes a link's text.
    assert re.search(r"(?<!\\)\]\(javascript", markdown) is None
    for text in (page_text, markdown, *(file.read_text() for file in out.glob("*.csv"))):
        assert all(letter.isprintable() or letter == "\n" for letter in text)


def test_a_spreadsheet_runs_no_name(hostile):
    _, out, _, _ = hostile
    for file in out.glob("*.csv"):
        for row in csv.reader(file.read_text().splitlines()):
            assert not any(cell.startswith(("=", "@")) for cell in row)
    runs = rows_of(out / "runs.csv")
    assert [run["run"] for run in runs] == [f"'{printable(HOSTILE)}{i}" for i in range(2)]
    assert [float(run["AR@300"]) for run in runs] == [0.5, 0.9]


def test_the_terminal_obeys_no_name(hostile, capsys):
    folder, _, *printed = hostile
    assert main(["status", str(folder)]) == 0
    printed.append(capsys.readouterr().out)
    for text in printed:
        assert all(letter.isprintable() or letter == "\n" for letter in text)
    assert "javascript" in printed[-1]
