"""What the package must survive, case by case; a test says which cases it is about by `pytest.mark.hostile("M1")`.

M: memory and layout. P: the optimiser protocol. S: state and files. R: formulas. C: caches, processes and threads.
L: the command line.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.null

TESTS = Path(__file__).parent


@dataclass(frozen=True)
class Case:
    """One case, and what must come of it."""

    given: str
    expected: str


CASES = {
    # Memory and layout
    "M1": Case("a parameter that is every second column of an array", "the right numbers, and nothing in between"),
    "M2": Case("tensors at odd offsets, between canaries and unreadable pages", "no byte beside them is touched"),
    "M3": Case("transposed or channels-last parameters, row-major gradients, and the reverse", "the right numbers"),
    "M4": Case("a gradient that is one number, expanded", "the right numbers, from reading that one"),
    "M5": Case("a gradient with NaN between its elements", "the right numbers, none of them NaN"),
    "M6": Case("a gradient that is negated lazily", "the right sign"),
    "M7": Case("a parameter that is expanded or overlaps itself", "refused by name, nothing is written"),
    "M8": Case("two parameters that share memory", "refused by name, nothing is written"),
    "M9": Case("parameters without elements: some, a thousand, the last, all", "the others move; for none, no kernel"),
    "M10": Case("every length of tail; 100,000 parameters of one element", "torch's numbers; time grows as they do"),
    "M11": Case("more elements than 32 bits count", "every index has 64 bits, in the tables and in machine code"),
    "M12": Case("a parameter's data replaced: same form, other strides, other size", "followed, or refused by shapes"),
    "M13": Case("a parameter's dtype changed in mid-training", "its state goes on, and no bits are read as others"),
    "M14": Case("memory of a parameter, gradient or slot freed or shrunk, at once or later", "refused"),
    "M15": Case(
        "gradients made anew, at addresses that others had; gradients dropped", "right numbers; memory is free"
    ),
    "M16": Case("a bfloat16 gradient of a float32 parameter", "counts as its value"),
    "M17": Case("addresses that are no multiple of the element", "the right numbers"),
    "M18": Case(
        "sparse, mkldnn, meta, fake, functorch's, quantised, complex, integer tensors",
        "refused by kind; a DTensor is stepped",
    ),
    "M19": Case("parameters on several devices", "each stepped where it is; no address crosses"),
    "M20": Case("float32, float64 and bfloat16 in one group", "each right in its own dtype, under one norm"),
    "M21": Case("data replaced in another thread while a kernel works on it", "no use of memory that was freed"),
    "M22": Case("backward through a parameter that was stepped meanwhile", "an error, as in torch"),
    "M23": Case("parameters in mapped files", "written as mapped; read-only ones end the process, as in torch"),
    # The optimiser protocol
    "P1": Case("gradients that are missing at times, at first, or always", "each parameter has its own count"),
    "P2": Case("groups added, parameters replaced in their group", "followed"),
    "P3": Case("rates and other numbers edited, scheduled, given as tensors, NaN, text", "followed, or refused"),
    "P4": Case("one parameter given twice", "torch's warning or error, and never a race"),
    "P5": Case("copied or pickled with its model", "both go on alike, bit for bit, and apart"),
    "P6": Case("params as generators, dicts, sets, names, numbers, nothing", "taken or refused in torch's words"),
    "P7": Case("closures that raise, clear gradients, step, return anything", "nothing moved, or handed on"),
    "P8": Case("hooks that change gradients, remove themselves, raise", "the order holds, and so do the counts"),
    "P9": Case("an interrupt at any moment of a step", "parameters, slots and counts are at the same step"),
    "P10": Case("gradients that are not finite, with and without a scaler", "spread as in torch, or no step at all"),
    "P11": Case("clipping of nothing, zeros, 1e20, NaN; to 0, infinity, −1", "the exact length, or refused"),
    "P12": Case("more steps than float32 counts", "a rule counts on; torch's classes end where torch does"),
    "P13": Case("default dtypes and devices, inference mode, autocast around a step", "not one bit is different"),
    # State and files
    "S1": Case("state dictionaries spoiled in seventy ways", "each refused by name, nothing of it is loaded"),
    "S2": Case("one state loaded into two optimisers", "they share nothing"),
    "S3": Case("state of torch's classes, and ours in torch", "goes on with the same numbers, or refused by name"),
    "S4": Case("state that holds calls, or has no end", "refused, and nothing is run"),
    "S5": Case("archives that swell, or name places outside", "refused, or passed over; nothing is written"),
    "S6": Case("a checkpoint cut short, or with a bit flipped", "found out, and the one before is taken"),
    "S7": Case("a kill at any moment of writing", "the last whole file is there, and what is left behind goes"),
    "S8": Case(
        "a disk that is full, broken or read-only; names that cannot be",
        "one line; older files stay; the results are printed",
    ),
    "S9": Case("resuming with another rule, model or version", "refused, and both are named"),
    "S10": Case("two studies in one folder", "the second is refused"),
    "S11": Case("a run that goes on with another number of threads", "bit for bit the same"),
    # Formulas
    "R1": Case("text where a formula belongs; symbols taken apart; letters that look alike", "refused, never run"),
    "R2": Case("formulas without end, doubling at every line; 2**(10**9), 1e400", "refused, or no larger than written"),
    "R3": Case("division by zero, roots and logarithms of what has none, 0·∞", "IEEE's answer, as in the interpreter"),
    "R4": Case("unknown names, gradients assigned to, too few or wrong values", "refused at the author's columns"),
    "R5": Case("names that Python, Numba, Triton or the kernel use; of 10,000 letters", "only names"),
    "R6": Case("deciding with `if` on a symbol", "refused, with the advice to use where"),
    "R7": Case("random rules", "interpreter, eager and kernel agree"),
    # Caches, processes and threads
    "C1": Case("sixteen processes that compile one rule at once", "all step, and one sound entry stays"),
    "C2": Case("entries damaged, foreign, linked, of other machines and versions", "compiled anew, never run"),
    "C3": Case("a cache that is no directory, open to others, read-only, full, without home", "kernels stay in memory"),
    "C4": Case("a kill while a kernel is compiled or written", "nothing locked or poisoned; what is left goes"),
    "C5": Case(
        "forks after threads ran, or while they compile, step, import or hold locks; loaders with workers",
        "no hang, no abort, right numbers",
    ),
    "C6": Case("threads with their own optimisers, with one, in hooks; at the interpreter's end", "as one by one"),
    "C7": Case("thread counts that change, one core, fewer threads of Numba's", "the same bits, torch's count kept"),
    "C8": Case("no compiler, another threading layer, no Triton", "slow but right, or named"),
    # The command line
    "L1": Case("unknown commands and options, numbers that are none, files for folders", "exit 2, one line, no file"),
    "L2": Case(
        "reports of runs that are missing or logs that are cut",
        "what is missing is named",
    ),
    "L3": Case("ctrl-C, termination, a reader that has gone, no output", "whole files, no traceback"),
    "L4": Case("folders and texts with newlines, dashes, emoji, HTML, dots", "only names, and escaped"),
    "L5": Case("resuming what is finished, or has changed", "nothing to do, or refused"),
}


def marked() -> dict[str, list[str]]:
    """Map each test to the cases it is marked with, by reading every file of the tests; nothing is imported."""
    found: dict[str, list[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        on_tests: set[int] = set()
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            if function.name.startswith("test_"):
                marks = [mark for mark in function.decorator_list if _is_hostile(mark)]
                on_tests |= {id(mark) for mark in marks}
                names = [ast.literal_eval(name) for mark in marks for name in mark.args]
                found |= {f"{path.relative_to(TESTS)}::{function.name}": names} if marks else {}
        stray = [node.lineno for node in ast.walk(tree) if _is_hostile(node) and id(node) not in on_tests]
        assert not stray, f"{path}: line {stray[0]} marks something that is no test"
    return found


def _is_hostile(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "hostile"


def test_every_case_has_a_test_and_every_mark_a_case() -> None:
    tests = marked()
    unknown = [f"{test}: {name}" for test, names in tests.items() for name in names if name not in CASES]
    assert not unknown, "\n".join(unknown)
    assert all(tests.values())
    seen = {name for names in tests.values() for name in names}
    missing = [f"{name}: {case.given}" for name, case in CASES.items() if name not in seen]
    assert not missing, "\n".join(missing)
