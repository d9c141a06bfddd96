"""The cells of the notebooks run, on less data and for fewer steps than they have.

`scripts/notebooks` runs them as they are, and `scripts/docs` those that have changed.
"""

import ast
import json
import os
import pathlib
import subprocess
import sys
import textwrap

import pytest

NOTEBOOKS = pathlib.Path(__file__).parents[1] / "docs/notebooks"
# What is made smaller here: text of the cells, and what stands in its place.
SMALLER = {
    "own_data": {
        'write_split("train", 200,': 'write_split("train", 12,',
        'write_split("test", 40,': 'write_split("test", 4,',
        "config.steps = 70": "config.steps = 25",
    },
    "rpn_anatomy": {
        '"num_train": 400': '"num_train": 16',
        '"num_test": 60': '"num_test": 6',
        "config.steps = 100": "config.steps = 25",
    },
    "sweep_to_table": {
        '"data.options.num_train": 200': '"data.options.num_train": 16',
        '"data.options.num_test": 100': '"data.options.num_test": 8',
        '"steps": 30': '"steps": 12',
        "seeds(2)": "seeds(1)",
    },
}
# What Jupyter has and this interpreter need not have.
BEFORE = '''
import io, pathlib, sys, types

def show(value):
    """Draws what a cell ends with."""
    if hasattr(value, "savefig"):
        value.savefig(io.BytesIO(), format="png")

display = types.ModuleType("IPython.display")
display.SVG = lambda path: pathlib.Path(path).read_text().index("<svg")
display.Markdown = lambda text: text.index("|")
sys.modules["IPython.display"] = display
'''


def program_of(cells: list[str]) -> str:
    """The cells as a program: magics left out, files written, what a cell ends with shown."""
    return "\n".join([BEFORE, *map(program_of_cell, cells)])


def program_of_cell(cell: str) -> str:
    magic, _, rest = cell.partition("\n")
    if magic.startswith("%%writefile "):
        return f"pathlib.Path({magic.split()[1]!r}).write_text({rest!r})"
    lines = [line for line in cell.splitlines() if not line.startswith("%")]
    tree = ast.parse("\n".join(lines).replace("os.chdir(tempfile.mkdtemp())", ""))
    if isinstance(last := tree.body[-1], ast.Expr):
        last.value = ast.Call(ast.Name("show", ast.Load()), [last.value], [])
    return ast.unparse(ast.fix_missing_locations(tree))


def test_a_cell_becomes_a_program(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = ["%matplotlib inline\nx = 1\nx + 1", "%%writefile a.py\nx = 2\n"]
    shown = []
    program = "\n".join(map(program_of_cell, cells))
    exec(program, {"show": shown.append, "pathlib": pathlib})
    assert shown == [2]
    assert (tmp_path / "a.py").read_text() == "x = 2\n"


@pytest.mark.parametrize("name", SMALLER)
def test_a_notebook_runs(name, tmp_path):
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == SMALLER.keys()
    cells = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    for ours, smaller in SMALLER[name].items():
        assert sum(ours in cell for cell in code) == 1, ours
        code = [cell.replace(ours, smaller) for cell in code]
    program = tmp_path / "program.py"
    program.write_text(program_of(code))
    environment = {
        **os.environ,
        "XLA_FLAGS": "",  # the one device of a reader's machine
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
    }
    done = subprocess.run(
        [sys.executable, program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, textwrap.indent(done.stderr[-3000:], "    ")
