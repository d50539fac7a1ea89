"""The house: doors open one way, rooms stay small, and the public names are those that are listed."""

from __future__ import annotations

import ast
import builtins
from inspect import ismodule
from pathlib import Path

import pytest

import steprule
from steprule.backends import BACKENDS
from steprule.backends.eager import spelling
from steprule.backends.javascript import HELPERS, SPELLING
from steprule.backends.numba_dialect import NumbaDialect
from steprule.backends.triton_dialect import TritonDialect
from steprule.graph.ops import OPS
from steprule.rule import formula

pytestmark = pytest.mark.null

PACKAGE = Path(steprule.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
ORDER = ["errors", "version", "locks", "graph", "rule", "plan", "backends", "zoo", "optim", "export", "steprule"]
"""Each room may import those before it; `steprule` is the public face."""
ABOVE = {
    "console": {"steprule", "console"},
    "bench": {"steprule", "console", "bench"},
    "lab": {"steprule", "console", "bench", "lab"},
    "play": {"steprule", "console", "graph", "rule", "backends", "zoo", "export", "lab", "play"},
    "__main__": {"lab"},
}
"""What uses the library as anyone does: of it, these may import the public face only."""
UPWARDS = ["rule/formula.py (rule) imports optim"]
"""The one door that opens upwards, and only when it is called: `a_rule.optimizer(...)`."""
LONGEST_FILE, LONGEST_FUNCTION = 400, 40


def _room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "steprule" if parts == ("__init__",) else parts[0]


def _imports(path: Path) -> list[str]:
    """List the rooms a file imports from, wherever in the file the import stands; not those that only types name."""
    here = ["steprule", *path.relative_to(PACKAGE).with_suffix("").parts]
    found = []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            found += [module] if len(module) > 1 else [[*module, alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name.split(".") for alias in node.names]
    own = [module for module in found if module and module[0] == "steprule"]
    known = {_room(file) for file in FILES}
    return [module[1] if len(module) > 1 and module[1] in known else "steprule" for module in own]


def _functions(path: Path) -> list[tuple[str, int, int]]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=False)
            length = (node.end_lineno or 0) - node.lineno + 1 - (docstring.count("\n") + 1 if docstring else 0)
            found.append((node.name, node.lineno, length))
    return found


def test_doors_open_one_way() -> None:
    wrong = []
    for path in FILES:
        room = _room(path)
        for target in _imports(path):
            allowed = ABOVE[room] if room in ABOVE else set(ORDER[: ORDER.index(room) + 1])
            if target not in allowed:
                wrong.append(f"{path.relative_to(PACKAGE)} ({room}) imports {target}")
    assert wrong == UPWARDS, "\n".join(wrong)
    assert not hasattr(formula, "Optimizer")


def test_files_and_functions_stay_small(capsys: pytest.CaptureFixture[str]) -> None:
    """Print the table, and fail for a file of more than 400 lines or a function of more than 40."""
    rows, wrong = [], []
    for path in FILES:
        lines = path.read_text(encoding="utf-8").count("\n")
        functions = _functions(path)
        longest = max(functions, key=lambda item: item[2], default=("-", 0, 0))
        rows.append(f"{path.relative_to(PACKAGE)!s:32} {lines:5} lines   longest: {longest[0]} ({longest[2]})")
        wrong += [f"{path}: {lines} lines"] if lines > LONGEST_FILE else []
        wrong += [f"{path}:{line} {name}: {n} lines" for name, line, n in functions if n > LONGEST_FUNCTION]
    with capsys.disabled():
        print("\n" + "\n".join(rows) + f"\n{len(FILES)} files, public names: {', '.join(steprule.__all__)}")
    assert not wrong, "\n".join(wrong)


def test_public_names_are_the_ones_listed() -> None:
    values = {name for name, value in vars(steprule).items() if not name.startswith("_") and not ismodule(value)}
    hide_builtins = {name for name in values if hasattr(builtins, name)}
    assert hide_builtins >= {"abs", "max", "sum"}
    assert sorted(values - hide_builtins | {"board", "errors", "__version__"}) == sorted(steprule.__all__)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_and_public_name_has_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), path
    for node in tree.body:
        typed = any("'overload'" in ast.dump(item) for item in getattr(node, "decorator_list", []))
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not (typed or node.name.startswith("_")):
            assert ast.get_docstring(node), f"{path}:{node.lineno} {node.name}"


def test_a_public_class_name_stands_for_one_class() -> None:
    found: dict[str, list[str]] = {}
    for path in FILES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(str(path.relative_to(PACKAGE)))
    assert {name: places for name, places in found.items() if len(places) > 1} == {}


def _modules(path: Path) -> set[Path]:
    """Return the files that a file imports from, wherever in the file the import stands; not those that types name."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
    ]
    found: set[Path] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("steprule."):
            place = PACKAGE.joinpath(*(node.module or "").split(".")[1:])
            found |= {place.with_suffix(".py"), place / "__init__.py"} | {
                place / f"{alias.name}.py" for alias in node.names
            }
    return found & set(FILES)


def test_modules_of_optim_console_bench_and_lab_import_one_another_in_no_circle() -> None:
    imports = {path: _modules(path) for path in FILES if _room(path) in {"optim", "console", "bench", "lab"}}
    while free := [path for path, needed in imports.items() if not needed & imports.keys()]:
        for path in free:
            del imports[path]
    assert not imports, "\n".join(
        f"{path}: {sorted(map(str, needed & imports.keys()))}" for path, needed in imports.items()
    )


def test_optim_asks_no_backend_its_name() -> None:
    """It asks `BACKENDS` what a backend can; only what moves parameters, in any layout, names torch operations."""
    wrong = []
    for path in (path for path in FILES if _room(path) == "optim"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)}
            if isinstance(node, ast.Compare) and names & BACKENDS.keys():
                wrong.append(f"{path.name}:{node.lineno} compares a name")
            if isinstance(node, ast.ImportFrom) and {"numba_cpu", "triton_gpu"} & {
                *(node.module or "").split("."),
                *_names_imported(node),
            }:
                wrong.append(f"{path.name}:{node.lineno} imports a backend")
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance" and "Batch" in ast.unparse(node):
                wrong.append(f"{path.name}:{node.lineno} asks what a batch is")
    assert not wrong, "\n".join(wrong)


def test_constructors_of_optimisers_go_through_their_parent() -> None:
    """No class calls past it: `torch.optim.Optimizer.__init__` is called by `Optimizer` alone, through `super`."""
    found = [
        f"{path.name}: {ast.unparse(node.func)}"
        for path in FILES
        if _room(path) == "optim"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("__init__")
    ]
    assert {call.rpartition(": ")[2] for call in found} == {"super().__init__", "TorchOptimizer.__init__"}


def test_every_op_has_a_spelling_on_every_backend() -> None:
    numbered = [name for name, row in OPS.items() if row.kind in {"pointwise", "compare", "logic"}]
    assert all(name in NumbaDialect.spelling and name in TritonDialect.spelling for name in numbered)
    assert all(callable(spelling(name)) for name in numbered)
    assert set(NumbaDialect.spelling) <= set(OPS)
    assert set(SPELLING) == set(numbered)
    assert set(HELPERS) <= {text.partition("(")[0] for text in SPELLING.values()}


def test_every_lock_of_the_library_is_one_that_forked_children_find_free() -> None:
    """Also those inside others: Python 3.11's `cached_property` has one. What uses the library as anyone does may."""
    locking = {"Lock", "RLock", "Condition", "Semaphore", "Event", "Barrier", "cached_property"}
    found = [
        f"{path.relative_to(PACKAGE)} uses {name}"
        for path in FILES
        if _room(path) not in {*ABOVE, "locks"}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in ([node.attr] if isinstance(node, ast.Attribute) else _names_imported(node))
        if name in locking
    ]
    assert found == ["backends/triton_device.py uses Event"]  # torch.cuda.Event, which locks nothing


def _names_imported(node: ast.AST) -> list[str]:
    return [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []


def test_files_of_tests_have_names_of_their_own() -> None:
    """One process collects them all, as modules without packages."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
