"""The wall between the two houses, and the order of the rooms: who knows of whom."""

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
FILES = {".".join(file.relative_to(SOURCE).with_suffix("").parts): file for file in SOURCE.rglob("*.py")}

# Each imports only from those above it; a line is one floor, whose rooms do not know each other.
FLOORS = [
    ["either_package", "installed"],
    ["bounded_yaml", "errors", "own_time", "terminal"],
    ["causes", "files", "folder_lock", "metric"],
    ["findings"],
    ["history", "length", "measures"],
    ["writers"],
    ["probes"],
    ["recorder"],
    ["checks", "monitors"],
    ["report"],
    ["diagnosis", "averaging", "on_nonfinite"],
    ["presets"],
    ["runs"],
    ["sweeps", "ensembles"],
    ["command_line"],
    ["commands"],
    ["__main__"],
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
HYDRAS_SIDE = {"runs", "sweeps", "ensembles", "command_line", "commands"}
NEEDS_OF_THE_PROJECT = {"hydra", "omegaconf", "pydantic", "sklearn", "optuna", "torchvision"}


def imports_of(file):
    """The modules that `file` imports, for types alone too."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def room_of(module):
    """`checks` of `vitals.checks.wiring`; empty for the package itself, and for what is not of it."""
    return module.split(".")[1] if module.startswith("vitals.") else ""


@cache
def arrows():
    """Every import between modules of `src`, once."""
    return [(name, module) for name, file in FILES.items() for module in sorted(set(imports_of(file)))]


def test_the_instrument_knows_no_project():
    assert [
        (name, module) for name, module in arrows() if room_of(name) and module.split(".")[0] == "project"
    ] == []


def test_only_hydras_side_knows_hydra_and_what_else_the_project_needs():
    wrong = [
        (name, module)
        for name, module in arrows()
        if room_of(name) and room_of(name) not in HYDRAS_SIDE and module.split(".")[0] in NEEDS_OF_THE_PROJECT
    ]
    assert wrong == []


@pytest.mark.parametrize("room", FLOOR)
def test_a_room_imports_only_from_the_floors_below(room):
    wrong = [
        (name, module)
        for name, module in arrows()
        if room_of(name) == room and room_of(module) in FLOOR and room_of(module) != room
        if FLOOR[room_of(module)] >= FLOOR[room]
    ]
    assert wrong == []


def test_every_room_has_its_floor():
    assert {room_of(name) for name in FILES if room_of(name)} - {"__init__", "configs"} == set(FLOOR)


def test_no_module_imports_itself_by_way_of_others():
    graph: TopologicalSorter[str] = TopologicalSorter()
    for name, module in arrows():
        if module in FILES:
            graph.add(name, module)
    graph.prepare()  # raises CycleError, which names them


def asked_of_one_package(tree: ast.AST):
    """Lines that ask for a class of `lightning`, and not of either package."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    packages, names = set(), set()
    for node in imports:
        for each in node.names:
            module = node.module if isinstance(node, ast.ImportFrom) else each.name
            if module.split(".")[0] == "lightning":
                (names if isinstance(node, ast.ImportFrom) else packages).add(each.asname or each.name)

    def classes(node):
        """What stands in a class or tuple of such, but for what `either` is given."""
        if not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "either"):
            yield node
            for part in ast.iter_child_nodes(node):
                yield from classes(part)

    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "is_overridden":
            yield node.lineno
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass"):
            asked = list(classes(node.args[1]))
            if any(isinstance(each, ast.Name) and each.id in packages | names for each in asked):
                yield node.lineno


def test_classes_of_lightning_are_asked_for_in_either_package():
    """A module, trainer, strategy or logger may be of `pytorch_lightning`, whose classes are others."""
    wrong = [
        (name, line)
        for name, file in FILES.items()
        if name.startswith("vitals.") and room_of(name) not in HYDRAS_SIDE | {"either_package"}
        for line in asked_of_one_package(ast.parse(file.read_text()))
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("L.Trainer", True),
        ("(int, Logger)", True),
        ("either(L.Trainer)", False),
        ("(type, *either(Logger))", False),
    ],
)
def test_a_class_of_one_package_is_seen(line, wrong):
    source = f"import lightning as L\nfrom lightning.pytorch.loggers import Logger\nisinstance(x, {line})"
    assert bool(list(asked_of_one_package(ast.parse(source)))) == wrong
