"""Imports go one way: cli → pipelines → p2pkit, and the model side never meets the data side."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODEL_SIDE = frozenset({"networks", "heads", "losses"})
DATA_SIDE = frozenset({"datasets", "teachers", "store", "layers", "stream"})
LATE_ONLY = frozenset({"open3d", "webdataset", "MinkowskiEngine", "obstore"})
"""Packages whose import is slow or may fail: never at the top of a file."""


@dataclass(frozen=True)
class Import:
    """One imported module, as `package.module` or `package.module.name`."""

    module: str
    line: int
    at_top: bool


def sources() -> dict[str, Path]:
    """Each module of ours by dotted name; the linked folders count once, as p2pkit's."""
    found: dict[str, Path] = {}
    for folder, prefix in (("p2pkit", ""), ("cli", "p2pkit."), ("pipelines", "p2pkit.")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if folder == "p2pkit" and path.relative_to(ROOT).parts[1] in ("cli", "pipelines"):
                continue
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[prefix + name.removesuffix(".__init__")] = path
    return found


def imports_of(path: Path) -> Iterator[Import]:
    tree = ast.parse(path.read_text())
    top = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, id(node) in top)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is a relative import"
            for alias in node.names:
                yield Import(f"{node.module}.{alias.name}", node.lineno, id(node) in top)


def part(module: str) -> str:
    """The subpackage of p2pkit that a module belongs to, empty for other packages."""
    names = module.split(".")
    return names[1] if names[0] == "p2pkit" and len(names) > 1 else ""


def fault(module: str, found: Import) -> str | None:
    """What is wrong with one import, or None."""
    here, there = part(module), part(found.module)
    first = found.module.split(".")[0]
    if first in ("cli", "pipelines"):
        return "is a bare import: write p2pkit.cli or p2pkit.pipelines"
    if there == "cli" and here != "cli":
        return "imports the command line"
    if there == "pipelines" and here not in ("cli", "pipelines"):
        return "imports a pipeline from the library"
    if here in MODEL_SIDE and there in DATA_SIDE:
        return "imports the data side from the model side"
    if here in DATA_SIDE and there in MODEL_SIDE:
        return "imports the model side from the data side"
    if here == "store" and there == "layers":
        return "imports what the bytes mean from where they lie"
    if first in LATE_ONLY and found.at_top:
        return "is slow or may fail: import it where it is used"
    if first == "MinkowskiEngine" and module != "p2pkit.networks.engines.minkowski_engine":
        return "bypasses p2pkit.networks.engines.minkowski_engine"
    return None


def test_all_imports_go_the_right_way() -> None:
    faults = [
        f"{path.relative_to(ROOT)}:{found.line} {found.module} {reason}"
        for module, path in sources().items()
        for found in imports_of(path)
        if (reason := fault(module, found))
    ]
    assert not faults, "\n".join(faults)


def imported_modules() -> dict[str, set[str]]:
    """Our modules that each of ours imports, wherever in the file."""
    modules = sources()
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        names = {found.module for found in imports_of(path)}
        targets = {name if name in modules else name.rpartition(".")[0] for name in names}
        graph[module] = targets & modules.keys() - {module}
    return graph


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules of which each imports the next, and the last the first; empty where none do."""
    done: set[str] = set()

    def walk(module: str, way: list[str]) -> list[str]:
        if module in way:
            return way[way.index(module) :]
        for target in () if module in done else sorted(graph[module]):
            if found := walk(target, [*way, module]):
                return found
        done.add(module)
        return []

    return next((found for module in sorted(graph) if (found := walk(module, []))), [])


def test_no_modules_import_each_other() -> None:
    assert circle(imported_modules()) == []


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["b", "c"]


def test_all_folders_are_looked_at() -> None:
    parts = {part(module) for module in sources()}
    assert parts >= MODEL_SIDE | DATA_SIDE | {"cli", "pipelines", "minkowski", "geometry"}


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("p2pkit.geometry.maps.grid", "p2pkit.cli.main"),
        ("p2pkit.geometry.maps.grid", "p2pkit.pipelines.train.run"),
        ("p2pkit.pipelines.train.run", "p2pkit.cli.main"),
        ("p2pkit.losses.ppnce", "p2pkit.store.reading"),
        ("p2pkit.store.writing", "p2pkit.layers.digests"),
        ("p2pkit.teachers.teacher", "p2pkit.networks.blocks"),
        ("p2pkit.cli.commands.train", "pipelines.train"),
        ("p2pkit.networks.blocks", "MinkowskiEngine"),
        ("p2pkit.networks.engines.minkowski_engine", "open3d"),
    ],
)
def test_a_wrong_import_is_found(module: str, imported: str) -> None:
    assert fault(module, Import(imported, 1, at_top=True))
