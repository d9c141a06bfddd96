"""The floors of the package: a module imports only from floors below its own."""

import ast
import graphlib
import pathlib

import rpn_jax

ROOT = pathlib.Path(rpn_jax.__file__).parent
FLOORS = {
    "text": 0, "cuts": 0, "errors": 0, "progress": 0, "tables": 0, "typing": 0, "files": 0,
    "parts": 0, "hub": 0,
    "ops": 1, "data": 1,
    "evaluation": 2,
    "visualize": 3, "models": 3,
    "detectors": 4, "runs": 4,
    "weights": 5, "loggers": 5,
    "training": 6,
    "trained": 7,
    "compiling": 8,
    "library": 8,
    "alternating": 8,
    "sweeps": 9,
    "reports": 10, "flags": 10,
    "commands": 11, "console": 11,
    "__main__": 12,
}  # fmt: skip
CORE = ("ops", "models", "detectors")


def part_of(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_modules(path: pathlib.Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def modules():
    return [path for path in sorted(ROOT.rglob("*.py")) if path != ROOT / "__init__.py"]


def test_every_part_of_the_package_has_a_floor():
    assert {part_of(path) for path in modules()} <= FLOORS.keys()


def test_no_import_runs_upward():
    upward = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules()
        for name in imported_modules(path)
        if name.startswith("rpn_jax.")
        and (part := name.split(".")[1]) != part_of(path)
        and FLOORS.get(part, 0) >= FLOORS[part_of(path)] > 0
    ]
    assert upward == []


def test_data_never_imports_jax():
    for path in modules():
        if part_of(path) == "data":
            roots = {name.split(".")[0] for name in imported_modules(path)}
            assert not roots & {"jax", "flax", "optax"}, path
            assert "rpn_jax.typing" not in imported_modules(path), path


def test_the_core_needs_only_jax_numpy_and_flax():
    import sys

    allowed = {"jax", "jaxtyping", "numpy", "flax", "rpn_jax"} | sys.stdlib_module_names
    for path in modules():
        if part_of(path) in CORE:
            assert {name.split(".")[0] for name in imported_modules(path)} <= allowed, path


def test_no_config_dict_reaches_the_mathematics():
    for path in modules():
        if FLOORS[part_of(path)] < FLOORS["runs"] or part_of(path) == "detectors":
            roots = {name.split(".")[0] for name in imported_modules(path)}
            assert "ml_collections" not in roots, path


def dotted(path: pathlib.Path) -> str:
    names = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


def test_no_circle_between_modules():
    known = {dotted(path) for path in ROOT.rglob("*.py")}
    graph = {}
    for path in ROOT.rglob("*.py"):
        names = imported_modules(path) & known
        # `from package import module` needs the module, not what else the package gathers.
        needed = names - {name.rpartition(".")[0] for name in names if name.count(".") > 1}
        graph[dotted(path)] = needed - {dotted(path)}
    try:
        tuple(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        raise AssertionError(" imports ".join(reversed(error.args[1]))) from error


def test_a_folder_can_be_taken_in_at_a_glance():
    for folder in {path.parent for path in modules()}:
        names = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(names) <= 16, f"{folder.relative_to(ROOT.parent)}: {len(names)} modules"
