"""What the documents show works: commands, blocks of Python, layouts of data, messages, pages."""

import ast
import json
import pathlib
import re
import runpy
import subprocess
import sys

import docs_check
import docs_notebooks
import docs_pages
import numpy as np
import pytest
from documents import DOCUMENTS, ROOT, blocks, command_lines, tree_files
from folders import picture

import rpn_jax
from rpn_jax.__main__ import COMMANDS, command_parser
from rpn_jax.data.datasets import open_dataset
from rpn_jax.data.datasets.coco_json import read_coco_json
from rpn_jax.data.datasets.voc_folder import read_voc_folder
from rpn_jax.data.datasets.yolo import read_yolo
from rpn_jax.errors import UserError
from rpn_jax.runs.config_files import load_config
from rpn_jax.runs.fields import FIELDS, check_config
from rpn_jax.sweeps.definition import load_sweep

DOCS = ROOT / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
SHIPPED = {path.stem for path in (ROOT / "configs").glob("[!_]*.py")}


def commands_of(words: list[str]) -> list[str]:
    """The words of a line that go to rpn-jax; none of other lines."""
    if words[0] == "rpn-jax":
        return words[1:]
    if words[0] == "scripts/tpu_pod.sh" and words[1] == "train":
        return ["train", *words[4:]]
    if "scripts/slurm.sh" in words:
        return ["train", *words[words.index("scripts/slurm.sh") + 1 :]]
    return []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_command_lines_are_understood(path):
    parser = command_parser()
    for words in command_lines(path):
        if words[0].startswith("scripts/"):
            assert (ROOT / words[0]).exists(), words
        words = commands_of(words)
        if not words or "--help" in words:
            continue
        fields = [word for word in words if word.startswith("--config.")]
        arguments, others = parser.parse_known_args([word for word in words if word not in fields])
        steps = [word for word in others if re.match(r"--(\d_)?(fast_)?r(pn|cnn)\.", word)]
        assert others == (steps if arguments.command == "alternate" else []), words
        names = [word.partition("=")[0].partition(".")[2] for word in (*fields, *steps)]
        assert all(name in FIELDS or name.startswith("data.options.") for name in names), words
        config = pathlib.Path(getattr(arguments, "config", None) or "mine.py")
        if config.stem in SHIPPED:
            load_config(config.stem, fields)
        else:
            assert config.name in ("mine.py", "config.json"), words


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_files_of_python_are_configs_and_sweeps(path, tmp_path):
    for number, block in enumerate(blocks(path, "python")):
        file = tmp_path / f"{number}.py"
        file.write_text(block.text)
        if "def get_config" in block.text:
            check_config(runpy.run_path(str(file))["get_config"]())
        elif "def get_sweep" in block.text:
            assert load_sweep(str(file), []).runs
        else:
            names = {
                f"{node.value.id}.{node.attr}"
                for node in ast.walk(ast.parse(block.text))
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
            }
            for name in names:
                of, _, attribute = name.partition(".")
                kind = {"rpn_jax": rpn_jax, "model": rpn_jax.Model}.get(of)
                assert kind is None or hasattr(kind, attribute), (path.name, name)


def test_the_paper_in_code_is_a_program():
    program = "\n".join(block.text for block in blocks(DOCS / "paper.md", "python"))
    exec(compile(program, "docs/paper.md", "exec"), {})


def test_layouts_of_data_are_read_as_shown(tmp_path):
    shown = blocks(DOCS / "data.md", "text", "xml", "json", "yaml")
    contents = {block.title: block.text for block in shown if block.title}
    json = contents["annotations/instances_train.json"]
    trees = [tree_files(block.text) for block in shown if block.text.startswith("FOLDER\n")]
    assert len(trees) == 10
    for number, files in enumerate(trees):
        root = tmp_path / str(number)
        for name in files:
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            if file.suffix in (".jpg", ".png"):
                file.write_bytes(picture("a", 64, 96))
            elif file.suffix == ".json":
                image = "b.jpg" if file.parent.name == "test" or "test" in name else "a.jpg"
                file.write_text(json.replace("a.jpg", image))
            else:
                like = next((c for c in contents if c.endswith(file.suffix)), None)
                like = "labels/train/a.txt" if file.stem in ("a", "b") else like
                text = contents.get(name, contents[like])
                file.write_text(text.replace("000005", "000007") if "test" in name else text)
        if any(name.endswith(".xml") for name in files):
            source = read_voc_folder(str(root))
        elif "boxes.json" in files:
            (line,) = (w for w in command_lines(DOCS / "data.md") if "options.splits" in str(w))
            option = line[-1].partition("=")[2]
            source = read_coco_json(str(root), splits=ast.literal_eval(option))
        elif {"data.yaml", "obj.data"} & set(files):
            source = read_yolo(str(root))
        else:
            source = read_coco_json(str(root))
        assert "train" in source.splits, files
        example = source.splits["train"][0]()
        # YOLO's fractions are rounded.
        np.testing.assert_allclose(example.boxes, [[8, 8, 56, 48]], rtol=0, atol=1e-4)
        assert source.class_names == ("dog",)


def test_options_of_datasets_are_taken(tmp_path):
    rows = re.findall(r"^\| `(\w+)` \| (`.*?) \|", (DOCS / "data.md").read_text(), re.MULTILINE)
    assert {option for option, _ in rows} >= {"splits", "orientation", "first_pixel", "outside"}
    for option, kinds in rows:
        for kind in re.findall(r"\w+", kinds):
            with pytest.raises(UserError, match="with these options is not prepared there"):
                open_dataset(kind, "train", data_dir=tmp_path, source="x", **{option: "shown"})


def test_messages_in_the_questions_are_those_of_the_code():
    """Of what stands between the … of a message, each longer piece is in some text of the code."""
    of_code = {
        text
        for path in (ROOT / "rpn_jax").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(text := node.value, str) and len(text) > 15
    }
    asked = [block.text.strip() for block in blocks(DOCS / "faq.md", "console")]
    assert len(asked) >= 15
    for message in asked:
        pieces = [p.strip(" ;") for p in message.removeprefix("error: ").split("…") if len(p) > 18]
        assert pieces
        for piece in pieces:
            assert any(piece in text or text.strip(" ;:") in piece for text in of_code), piece


def test_pages_that_are_made_of_the_code_have_all_of_it():
    fields = re.findall(r'<span id="([\w.]+)"', docs_pages.fields_page())
    assert sorted(fields) == sorted(FIELDS)
    page = docs_pages.commands_page()
    assert re.findall("^## (.*)$", page, re.MULTILINE) == [*COMMANDS]
    flags = dict(re.findall("^`(.+)`\n:   (.*)$", page, re.MULTILINE))
    assert {"--config FILE", "--skip-bad", "--fields [GROUP]", "RUN_A"} <= flags.keys()
    assert all(flags.values()), "each flag says what it is for"


def test_links_between_documents_lead_to_headings(tmp_path):
    assert [problem for path in DOCUMENTS for problem in docs_check.markdown_problems(path)] == []
    page = tmp_path / "page.md"
    page.write_text("# A heading\n[a](#a-heading) [b](#b) [c](none.md) [d](https://example.org)\n")
    assert docs_check.markdown_problems(page) == [
        "page.md: #b: no such heading",
        "page.md: none.md: no such file",
    ]


def test_a_page_that_asks_another_server_is_noticed(tmp_path):
    (tmp_path / "a.html").write_text(
        '<link rel="stylesheet" href="https://fonts.example.org/x.css"><h1 id="top"></h1>'
        '<a href="https://example.org">out</a><a href="#top">up</a><a href="b.html">b</a>'
    )
    assert docs_check.site_problems(tmp_path) == [
        "a.html: fetches https://fonts.example.org/x.css",
        "a.html: b.html: no such file",
    ]


def test_links_to_functions_lead_to_their_lines():
    links = docs_pages.LINK.findall((DOCS / "paper.md").read_text())
    of_code = [(text.strip("`"), target) for text, target in links if target.endswith(".py")]
    assert len(of_code) > 30
    for name, target in of_code:
        file = (DOCS / target).resolve()
        assert name == file.name or docs_pages.line_of(file, name), (name, target)
    page = docs_pages.with_links_to_code("paper.md", "[`nms`](../rpn_jax/ops/nms.py)")
    line = page.partition("codelineno-0-")[2].rstrip(")")
    source = (ROOT / "rpn_jax/ops/nms.py").read_text().splitlines()
    assert source[int(line) - 1].startswith("def nms(")


def test_notebooks_are_kept_without_outputs_and_have_a_page():
    assert len(NOTEBOOKS) == 3
    navigation = (ROOT / "mkdocs.yml").read_text()
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text())["cells"]
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        assert all(not cell["outputs"] for cell in code), path.name
        assert all(cell["execution_count"] is None for cell in code), path.name
        first = "".join(cells[0]["source"])
        assert first.startswith("# "), path.name
        assert "**You need** `pip install rpn-jax" in first, path.name
        assert f": notebooks/{path.stem}.md\n" in navigation
    arguments = [sys.executable, "-m", "ruff", "check", "--no-cache", *map(str, NOTEBOOKS)]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_outputs_of_a_notebook_are_shown_as_text_tables_and_pictures():
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": ["AP "]},
        {"output_type": "stream", "name": "stderr", "text": ["100 %\n"]},
        {"output_type": "stream", "name": "stdout", "text": ["0.5\n"]},
        {"output_type": "display_data", "data": {"image/png": "AAAA", "text/plain": ["<Figure>"]}},
        {"output_type": "execute_result", "data": {"text/markdown": ["| a |"], "text/plain": "x"}},
    ]
    cells = [
        {"cell_type": "markdown", "source": ["## Loss\n", "It falls."]},
        {"cell_type": "code", "source": ["draw()"], "outputs": outputs},
    ]
    text, pictures = docs_notebooks.markdown_of("own", cells)
    assert text.split("\n\n") == [
        "## Loss\nIt falls.",
        "```python\ndraw()\n```",
        "~~~~{.text .output}\nAP 0.5\n~~~~",
        "![Loss](own_0.png)",
        "| a |\n",
    ]
    assert pictures == {"own_0.png": b"\0\0\0"}
