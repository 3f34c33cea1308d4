"""The house's order: who may import whom, what an import must not drag in, how long a file may be."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.paths import ROOT

PACKAGE = ROOT / "rocforge"
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 450

# From the ground up. A room imports itself, those of its own line, and those of the lines above.
FLOORS = (
    {"errors"},
    {"probe"},
    {"gguf"},
    {"kernels", "cpu"},
    {"plan", "models"},
    {"engine"},
    {"llm"},
    {"__init__"},
    {"commands"},
    {"cli"},
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
STRANGERS = ({"kernels", "cpu"},)  # on one floor, and yet not to import each other


def room_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path):
    """(dotted name, line) of every import of a file, those within functions included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            # `from rocforge import x` is of a room x, or of a public name.
            names = [f"rocforge.{a.name}" for a in node.names] if node.module == "rocforge" else [node.module]
            yield from ((name, node.lineno) for name in names)


def imported_rooms(path):
    """(room, line) of every import from this package."""
    for name, line in imports(path):
        package, _, rest = name.partition(".")
        if package == "rocforge":
            room = rest.split(".")[0]
            yield (room if room in FLOOR else "__init__"), line


def is_allowed(room, other):
    return room == other or FLOOR[other] <= FLOOR[room] and not any({room, other} == pair for pair in STRANGERS)


def relative(path):
    return str(path.relative_to(ROOT))


def dotted(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_every_room_has_a_floor():
    assert {room_of(p) for p in FILES} <= FLOOR.keys()


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_imports_point_down(path):
    room = room_of(path)
    wrong = [f"line {n}: {room} imports {other}" for other, n in imported_rooms(path) if not is_allowed(room, other)]
    assert not wrong, f"{relative(path)}: {wrong}"


def test_the_rule_itself():
    assert is_allowed("engine", "plan") and is_allowed("plan", "models") and is_allowed("cpu", "gguf")
    assert not is_allowed("plan", "engine") and not is_allowed("cpu", "kernels") and not is_allowed("errors", "probe")


def test_no_module_imports_itself_by_way_of_others():
    """A cycle works or fails by which module is imported first. Imports within functions do not count."""
    modules = {dotted(path): path for path in FILES}
    graph = {}
    for module, path in modules.items():
        graph[module] = set()
        for node in ast.parse(path.read_text()).body:
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            for name in names:
                # Importing a.b.c imports a and a.b too, except where they are being imported already.
                parts = name.split(".")
                graph[module] |= {".".join(parts[:n]) for n in range(1, len(parts) + 1)} & modules.keys()
        graph[module] -= {module} | {package for package in modules if module.startswith(f"{package}.")}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_file_is_short_and_opens_with_its_duty(path):
    source = path.read_text()
    assert source.count("\n") <= MAX_LINES
    assert not source.strip() or ast.get_docstring(ast.parse(source)), "a file opens with its duty and its limit"


@pytest.mark.parametrize("path", [p for p in FILES if room_of(p) != "commands"], ids=relative)
def test_only_commands_print(path):
    prints = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not prints, f"{relative(path)}: print on lines {prints}; use logging"


def loaded_after(code):
    """The top-level modules in a fresh interpreter that has run `code`."""
    listing = "; import sys; sys.stdout.write(' '.join({m.split('.')[0] for m in sys.modules}))"
    ran = subprocess.run([sys.executable, "-c", code + listing], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(ran.stdout.split())


def test_cpu_path_imports_neither_torch_nor_triton():
    """Every module that is not a GPU kernel, imported one after the other."""
    modules = [dotted(path) for path in FILES if room_of(path) != "kernels"]
    loaded = loaded_after("import " + ", ".join(modules))
    assert "numba" in loaded, "the CPU path was not imported at all"
    assert not loaded & {"torch", "triton", "transformers", "gguf"}


def test_import_rocforge_is_light():
    loaded = loaded_after("import rocforge")
    assert not loaded & {"torch", "triton", "numba", "numpy", "click", "rich"}


def test_command_line_imports_no_kernels():
    """What --help pays for: click, and neither numpy nor Numba."""
    assert not loaded_after("import rocforge.cli") & {"torch", "triton", "numba", "numpy", "rich", "llvmlite"}


def test_a_plan_is_drawn_without_numba():
    """`rocforge explain` and every fault that is found before a model runs would wait for its import."""
    assert "numba" not in loaded_after("from rocforge.llm import draw; draw(None, 'cpu').file.close()")
