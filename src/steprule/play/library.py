"""The zoo as text: each rule with all that it calls, as a file of its own that a person may edit and run."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import steprule
from steprule.graph.ops import COEFFICIENTS
from steprule.rule import Formula, functions
from steprule.zoo import adam, adaptive, board, common, descent, factored, free, matrices, papers, transforms

MODULES = (board, transforms, adam, adaptive, descent, factored, free, matrices, papers)
"""The modules of the zoo, the whiteboard first."""
LANGUAGE = {*functions.__all__, "chain", "choice", "hyper", "rule", "slot", "transform", "watch"}
"""What rules import."""
_SHORT = re.compile(r"\b(from_0|below_1|to_1)\(([^()]*(?:\([^()]*\)[^()]*)*)\)")


@dataclass(frozen=True)
class Shelved:
    """A rule, a transform, or a function that makes one: its source, and the value itself."""

    name: str
    source: str
    value: Any


@cache
def entries() -> dict[str, Shelved]:
    """Return every rule and transform of the zoo under `module.name`, as they stand in their modules."""
    return {entry.name: entry for module in MODULES for entry in _of_module(module)}


def public() -> dict[str, str]:
    """Map the names that `steprule` itself has for them to theirs here."""
    own = {_key(value): name for name, value in vars(steprule).items() if name in steprule.__all__}
    return {"board": "board"} | {own[key]: key for key in entries() if key in own}


def _key(value: Any) -> str:
    function = value.part.function if isinstance(value, Formula) and len(value.parts) == 1 else value  # type: ignore[attr-defined]
    module = getattr(function, "__module__", None) or ""
    return f"{module.rpartition('.')[2]}.{getattr(function, '__name__', '')}"


def _of_module(module: ModuleType) -> Iterator[Shelved]:
    short = module.__name__.rpartition(".")[2]
    for name, value in vars(module).items():
        formula = isinstance(value, Formula) or (inspect.isfunction(value) and name in vars(module).get("__all__", ()))
        if formula and _key(value) == f"{short}.{name}":
            yield Shelved(f"{short}.{name}", _standalone(module, name), value)


def _definitions(module: ModuleType) -> dict[str, tuple[int, str]]:
    """Map the names that a module defines to their places and texts."""
    source = inspect.getsource(module)
    lines = source.splitlines()
    found: dict[str, tuple[int, str]] = {}
    for node in ast.parse(source).body:
        first = node.lineno
        if isinstance(node, ast.FunctionDef):
            names = [node.name]
            first = min([first, *(decorator.lineno for decorator in node.decorator_list)])
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        else:
            continue
        text = "\n".join(lines[first - 1 : node.end_lineno])
        found |= {name: (first, text) for name in names if name != "__all__"}
    return found


def _names(text: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}


def _spelled(text: str) -> str:
    """Write the zoo's short forms of declarations in full, as an author would; a text needs no types."""

    def written(match: re.Match[str]) -> str:
        bounds = getattr(common, match[1]).keywords
        return f"hyper({match[2]}, {', '.join(f'{name}={bound}' for name, bound in bounds.items())})"

    return re.sub(r" -> Transform\b", "", _SHORT.sub(written, text))


def _standalone(module: ModuleType, name: str) -> str:
    """Return the text of a definition, below what it needs of its module, the zoo and the language."""
    shared = {key: (place - 10_000, text) for key, (place, text) in _definitions(common).items()}
    constants = {"COEFFICIENTS": (-20_000, f"COEFFICIENTS = {COEFFICIENTS}")}
    known = constants | shared | _definitions(module)
    needed: dict[str, tuple[int, str]] = {}
    imported: set[str] = set()
    waiting = [name]
    while waiting:
        one = waiting.pop()
        if one in known and one not in needed:
            text = _spelled(known[one][1])
            needed[one] = (known[one][0], text)
            waiting += _names(text)
        elif one not in known and one in LANGUAGE:
            imported.add(one)
    body = [text for _, text in sorted(set(needed.values()))]
    constants = [text for text in body if "\n" not in text]
    blocks = [f"from steprule import {', '.join(sorted(imported))}", "\n".join(constants)]
    return "\n\n\n".join([*filter(None, blocks), *(text for text in body if "\n" in text)]) + "\n"


__all__ = ["Shelved", "entries", "public"]
