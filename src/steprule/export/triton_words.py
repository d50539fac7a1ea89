"""The functions that kernels call, as text for a file of its own: read where they are written.

They are read as text, so that a file can be exported where Triton is not installed.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from .. import graph, plan
from ..backends import base
from ..plan.rounding import FORMULAS
from .expressions import whole
from .triton_kernels import WIDTH

_HELPERS = Path(base.__file__).with_name("triton_helpers.py")
_ROOMS = (Path(graph.__file__).parent, Path(plan.__file__).parent)
_CONSTANTS = [_ROOMS[0] / "words.py", _ROOMS[0] / "chance.py", *(_ROOMS[1] / f"{name}.py" for name in ("rounding",
              "float16", "minifloats"))]  # fmt: skip
_RENAMED = {"ratio": "divide"}
"""What formulas call otherwise than the helper that it is."""
LIBRARY = "from triton.language.extra import libdevice"
"""The import of NVIDIA's functions, where kernels call them."""


def needed(code: str, *, told: bool = True) -> list[str]:
    """Return what a module of kernels needs above it: each function and constant after those that it uses.

    What functions are is `told` in their docstrings, or left out.
    """
    known, found = _written(), dict[str, None]()

    def take(text: str) -> None:
        for word in _free(text):
            if word in known and word not in found:
                take(known[word])
                found.setdefault(word)

    take(code)
    return [known[name] if told else re.sub(r'\n    """(.|\n)*?"""', "", known[name]) for name in found]


def _free(text: str) -> Iterator[str]:
    """List the names that functions, or an assignment, use and do not define."""
    for part in ast.parse(text).body:
        names = [node for node in ast.walk(part) if isinstance(node, ast.Name)]
        own = {node.arg for node in ast.walk(part) if isinstance(node, ast.arg)}
        own |= {node.id for node in names if isinstance(node.ctx, ast.Store)}
        yield from (node.id for node in names if node.id not in own)


@cache
def _written() -> dict[str, str]:
    """Return everything that a file may need, by name."""
    own = {name: text for path in _CONSTANTS for name, text in _constants(path)}
    helpers = _HELPERS.read_text(encoding="utf-8")
    words: dict[str, str] = {}
    for part in ast.parse(helpers).body:
        if isinstance(part, ast.Assign) and ast.unparse(part.targets[0]) == "_WORDS":
            words = ast.literal_eval(part.value)
    for path in _CONSTANTS[1:]:
        own |= {name: _expanded(text, words) for name, text in _functions(path) if name in FORMULAS}
    own |= {head.partition("(")[0]: _jitted(f"def {head}:\n    return {value}") for head, value in words.items()}
    own |= {other: f"{other} = {name}" for other, name in _RENAMED.items()}
    return own | dict(_functions(_HELPERS)) | dict(_library(helpers))


def _expanded(function: str, words: Mapping[str, str]) -> str:
    """Write what words stand for in their place, unless lines get too long."""
    text = function
    for head, value in words.items():
        name, given = head.partition("(")[0], re.findall(r"\w+", head)[1:]
        while (found := re.search(rf"(?<![\w.]){name}\(", text)) and not text.startswith("def ", found.start() - 4):
            parts, end = _arguments(text, found.end())
            known = dict(zip(given, (part if whole(part) else f"({part})" for part in parts), strict=True))
            inner = re.sub(r"(?<![\w.])\w+", lambda word, known=known: known.get(word[0], word[0]), value)
            text = text[: found.start()] + inner + text[end:]
    return text if max(map(len, text.split("\n"))) <= WIDTH else function


def _arguments(text: str, start: int) -> tuple[list[str], int]:
    """Return the arguments of a call that begin at a place, and where it ends."""
    depth, parts, begin = 1, list[str](), start
    for place in range(start, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0 or (depth == 1 and text[place] == ","):
            parts.append(text[begin:place].strip())
            begin = place + 1
        if depth == 0:
            return parts, place + 1
    return parts, len(text)


def _functions(path: Path) -> Iterator[tuple[str, str]]:
    text = path.read_text(encoding="utf-8")
    for part in ast.parse(text).body:
        if isinstance(part, ast.FunctionDef) and not part.name.startswith("_library"):
            source = ast.get_source_segment(text, part) or ""
            yield part.name, _jitted(re.sub(r"  # (?:noqa|pyright).*", "", source))


def _jitted(function: str) -> str:
    return f"@triton.jit\n{function}"


def _constants(path: Path) -> Iterator[tuple[str, str]]:
    """Read the numbers of a module, as they are spelled there."""
    text = path.read_text(encoding="utf-8")
    for part in ast.parse(text).body:
        if isinstance(part, ast.Assign):
            target, value = part.targets[0], part.value
            several = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
            pairs = zip(target.elts, value.elts, strict=True) if several else [(target, value)]  # type: ignore[union-attr]
            for name, number in pairs:
                if isinstance(name, ast.Name) and _is_number(number):
                    spelled = ast.get_source_segment(text, number)
                    yield name.id, f"{name.id} = tl.constexpr({spelled})"


def _is_number(value: ast.expr) -> bool:
    """Whether an expression is made of numbers alone."""
    if isinstance(value, ast.Constant):
        return isinstance(value.value, int | float)
    if isinstance(value, ast.UnaryOp):
        return _is_number(value.operand)
    return isinstance(value, ast.BinOp) and all(_is_number(side) for side in (value.left, value.right))


def _library(text: str) -> Iterable[tuple[str, str]]:
    """Read which names of ours stand for functions of NVIDIA's library."""
    for part in ast.parse(text).body:
        if isinstance(part, ast.Assign) and "_library(" in ast.unparse(part.value):
            names = re.findall(r"\w+", ast.unparse(part.targets[0]))
            theirs = re.findall(r"_library\('(\w+)'", ast.unparse(part.value))
            yield from ((own, f"{own} = libdevice.{other}") for own, other in zip(names, theirs, strict=True))
