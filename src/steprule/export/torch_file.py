"""A rule as a torch optimiser in one file, which imports torch alone.

The formula is written down node by node, in the order and the types in which the eager backend computes it; so a step
of the file gives the same bits. What is not the formula (arguments, state, checkpoints) is the text of `torch_class`.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Sequence
from symtable import symtable
from types import ModuleType

from ..backends import torch_ops
from ..errors import BackendError
from ..graph import chance
from ..plan import float16, rounding
from . import torch_helpers
from .header import LONGEST, docstring, header
from .subject import Subject, class_name
from .torch_class import class_text
from .torch_methods import FileRule, labels, lowered, methods
from .torch_points import moves
from .torch_update import Function, written

_MODULES = (torch_helpers, torch_ops, chance, rounding, float16)


def torch_file(subject: Subject) -> str:
    """Return the file of a subject in torch."""
    own = methods(subject)
    functions = _updates(own)
    notes = _notes(subject, own)
    name = subject.name if len(own) == 1 else "".join(class_name(method.rule) for method in own)
    below = "".join(f"\n\n{function.text}" for function in functions.values())

    def whole(*, brief: bool, long: bool = False) -> str:
        head = docstring(header(subject, notes=notes, whole=long))
        body = class_text(name, own, functions, brief=brief) + below
        return f"{head}\n\n{complete(body, subject.options.seed)}"

    text = _short(whole(brief=False))
    text = _short(whole(brief=True)) if text.count("\n") > LONGEST else text
    text = _short(whole(brief=True, long=True)) if text.count("\n") > LONGEST else text
    if (lines := text.count("\n")) > LONGEST:
        raise BackendError(
            f"the file of {subject.name} has {lines} lines, and {LONGEST} are allowed",
            where=f"  {subject.command}",
            fix="export a part of the chain, or fewer rules",
        )
    return text


def _short(text: str) -> str:
    """Return a file that is too long without the rule's quotes, then without what its functions and methods say."""
    of_functions, of_methods = (rf'(\n{" " * depth}def [^\n]*:)\n{" " * (depth + 4)}"""[^"\n]*"""' for depth in (0, 4))
    for words, kept in ((r"\n +# [^\n]*", ""), (of_functions, r"\1"), (of_methods, r"\1")):
        text = re.sub(words, kept, text) if text.count("\n") > LONGEST else text  # quotes of the rule go first
    return text


def _updates(own: Sequence[FileRule]) -> dict[str, Function]:
    """Return the functions of all rules, by name."""
    plans = [kernels.plan for method in own for kernels in (method.kernels, method.flat) if kernels is not None]
    names = labels(plans)
    found: dict[str, Function] = {}
    for method in own:
        found[method.name] = written(method.name, method.program(), method.reading, names)
        if method.flat is not None:
            name = f"{method.name}_flat"
            found[name] = written(name, lowered(method.flat.plan, method.flat), method.reading, names)
    for method in own:  # what steps vectors may be another rule of the file
        flat = found.get(f"{method.name}_flat")
        same = [
            other for other in found if flat and found[other].text == flat.text.replace(f"{method.name}_flat", other)
        ]
        if flat and (others := [other for other in same if other != f"{method.name}_flat"]):
            method.names["flat"] = others[0]
            del found[f"{method.name}_flat"]
    for method in own:
        found |= moves(method, names)
    return found


def _notes(subject: Subject, own: Sequence[FileRule]) -> list[str]:
    """Say what the file leaves out, or keeps otherwise."""
    graphs = [method.kernels.formula.graph for method in own]
    found = []
    if any(graph.gauges for graph in graphs) or subject.options.watch:
        found.append("Gauges that the rule watches are left out.")
    if subject.options.state is not None:
        found.append(f"Slots are kept as {subject.options.state}, rounded stochastically where that is narrow.")
    return found


def complete(body: str, seed: int = 0) -> str:
    """Put imports before a body, and behind it every function that it calls; `seed` is that of what these draw."""
    known = {name: (text, module) for module in _MODULES for name, text in _functions(module).items()}
    added: dict[str, str] = {}
    constants: dict[str, object] = {}
    waiting = [body]
    while waiting:
        for word in _needs(waiting.pop()):
            if word in known and word not in added and f"def {word}(" not in body:
                added[word], module = known[word]
                constants |= _constants(seed, module, added[word])
                waiting.append(added[word])
    functions = "".join(f"\n\n{text}" for text in added.values())
    imports = ["import math", ""] if re.search(r"\bmath\.", body + functions) else []
    top = "\n".join(
        [
            *imports,
            "import torch",
            *([""] * bool(constants)),
            *(f"{name} = {value!r}" for name, value in constants.items()),
        ]
    )
    return f"{top}\n\n\n{body}{functions}"


def _needs(text: str) -> list[str]:
    """List the names that functions use and neither take nor make, in their order."""
    free, waiting = set[str](), [symtable(text, "", "exec")]
    while waiting:
        table = waiting.pop()
        free |= {own.get_name() for own in table.get_symbols() if own.is_global() and own.is_referenced()}
        waiting += table.get_children()
    names = [node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)]
    return [name for name in dict.fromkeys(names) if name in free]


def _functions(module: ModuleType) -> dict[str, str]:
    """Return the source of a module's functions, without annotations that need an import."""
    own = {name: value for name, value in vars(module).items() if inspect.isfunction(value)}
    return {name: inspect.getsource(value) for name, value in own.items() if value.__module__ == module.__name__}


def _constants(seed: int, module: ModuleType, text: str) -> dict[str, object]:
    """Return the numbers that a function of a module uses, by name."""
    words = _needs(text)
    own = {name: value for name, value in vars(module).items() if name.isupper() and isinstance(value, int | float)}
    own |= {"SEED": seed, "GOLDEN": vars(chance)["_GOLDEN"]} if module is torch_helpers else {}
    return {name: value for name, value in own.items() if name in words}


__all__ = ["complete", "torch_file"]
