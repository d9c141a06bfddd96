"""What the documents and docstrings name is there: files, modules, functions, fields of configs."""

import ast
import pathlib
import re

import pytest
from docs_pages import MADE

from rpn_jax.runs.fields import FIELDS

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "rpn_jax"
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
CODE = sorted(PACKAGE.rglob("*.py"))
FOLDERS = ("rpn_jax/", "scripts/", "configs/", "tests/", "docs/")
FILES = {
    path.relative_to(ROOT).as_posix()
    for folder in map(ROOT.joinpath, FOLDERS)
    for path in folder.rglob("*")
} | {path.name for path in ROOT.iterdir()}
# Files that the project writes or is given.
WRITTEN = (
    ".json",
    ".jsonl",
    ".npz",
    ".html",
    ".csv",
    ".h5",
    ".pth",
    ".safetensors",
    "report.md",
    "dataset.md",
    "data.yaml",
    "dataset.yaml",
    "train.txt",
)
GROUPS = {name[: dot.start()] for name in FIELDS for dot in re.finditer(r"\.", name)}


def names_of(tree: ast.AST) -> set[str]:
    """What a module or class defines or imports, and `Class.member`."""
    names = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
            names |= {f"{node.name}.{member}" for member in names_of(node)}
        for target in getattr(node, "targets", [getattr(node, "target", None)]):
            names |= {n.id for n in ast.walk(target or node) if isinstance(n, ast.Name) and target}
        if isinstance(node, ast.ImportFrom | ast.Import):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def dotted(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {dotted(path): names_of(ast.parse(path.read_text())) for path in CODE}
# What `rpn_jax/__init__.py` and `configs` find when asked.
MODULES["rpn_jax"] |= {"load", "prepare", "train", "Model", "Found", "configs", "paste_masks"}
MODULES["rpn_jax"].add("import_path")


def is_there(name: str) -> bool:
    """Whether a text in backticks names something of ours that is there, or nothing of ours."""
    name = re.sub(r"\(.*\)$", "", name)
    if "NAME" in name or name.endswith(WRITTEN) or name == "--config.field=value":
        return True
    if name.startswith(FOLDERS) or re.fullmatch(r"[\w/-]+\.(py|md|sh|cff)", name):
        return any(file == name or file.endswith(f"/{name}") for file in FILES) or (
            (ROOT / name).exists()
        )
    if field := re.fullmatch(r"(?:--)?config\.([\w.]+)(?:=.*)?", name):
        return field[1] in FIELDS.keys() | GROUPS or field[1].startswith("data.options.")
    if not re.fullmatch(r"[A-Za-z_]+(\.[A-Za-z_]\w*)+", name) or name in FIELDS:
        return True
    module, _, rest = name.partition(".")
    while rest:
        places = [full for full in MODULES if f".{full}".endswith(f".{module}")]
        if any(rest in MODULES[full] or f"{full}.{rest}" in MODULES for full in places):
            return True
        if not places and module == name.partition(".")[0]:
            return True  # of another project, or an attribute of a value
        step, _, rest = rest.partition(".")
        module = f"{module}.{step}"
    return False


def docstrings(path: pathlib.Path) -> str:
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef
    nodes = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds))
    return "\n".join(filter(None, map(ast.get_docstring, nodes)))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_what_is_there(path):
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    assert [name for name in re.findall(r"`([^`\n]+)`", text) if not is_there(name)] == []
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    lost = [link for link in links if not (path.parent / link).exists()]
    assert [link for link in lost if path.parent.name != "docs" or link not in MADE] == []


def test_docstrings_name_what_is_there():
    lost = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in CODE
        for name in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", docstrings(path))
        if not is_there(name)
    ]
    assert lost == []


def test_commands_in_documents_change_fields_that_there_are():
    for path in [*DOCUMENTS, *CODE, *(ROOT / "scripts").glob("*")]:
        if path.is_file():
            fields = re.findall(r"--config\.([a-z_0-9]+(?:\.[a-z_0-9]+)*)=", path.read_text())
            unknown = {
                f
                for f in fields
                if f not in FIELDS and not f.startswith("data.options.") and f != "field"
            }
            assert not unknown, path


def test_commands_in_documents_can_be_pasted_into_bash_and_zsh():
    """An interactive zsh takes `#` for an argument, and fails where a pattern matches no file."""
    for path in DOCUMENTS:
        blocks = re.findall(r"```bash\n(.*?)```", path.read_text(), re.DOTALL)
        for line in "".join(blocks).splitlines():
            unquoted = re.sub(r"'[^']*'|\"[^\"]*\"", "", line)
            assert not re.search(r"[#()\[\]*?~{}]|\$\w", unquoted), (path.name, line)


def test_what_is_gone_is_noticed():
    assert is_there("`x`".strip("`"))
    assert is_there("losses.rpn_loss")
    assert is_there("rpn_jax.runs.config_files.upgrade")
    assert is_there("config.rpn.targets")
    for gone in (
        "losses.no_such_loss", "rpn_jax.training.config", "rpn_jax/targets.py", "no_such.py",
        "config.anchors.sizes", "RPN.assess".replace("RPN", "rpn.RPN") + "_",
    ):  # fmt: skip
        assert not is_there(gone), gone


def test_figures_in_the_headers_of_configs_and_in_the_readme_agree():
    readme = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| `(\w+)\.py` \|.*\| ([^|]*) \|$", readme, re.MULTILINE)
    configs = {path.stem: path for path in (ROOT / "configs").glob("[!_]*.py")}
    assert {name for name, _ in rows} == configs.keys(), "each config has a row in the README"
    for name, score in rows:
        header = ast.get_docstring(ast.parse(configs[name].read_text()))
        for figure in re.findall(r"\d\.\d{3}", score):
            in_percent = f"{100 * float(figure):.1f}"
            assert re.search(rf"{re.escape(figure)}|\b{in_percent}\b", header), (name, figure)


def test_the_quick_start_prints_the_score_of_its_config():
    readme = (ROOT / "README.md").read_text()
    (score,) = re.findall(r"^\| `shapes\.py` .*AR@100 (\d\.\d+)", readme, re.MULTILINE)
    (printed,) = re.findall(r"^ +100((?: +[\d.]+)+)", readme, re.MULTILINE)
    assert f"{100 * float(score):.1f}" == printed.split()[10]  # behind ten IoU thresholds
