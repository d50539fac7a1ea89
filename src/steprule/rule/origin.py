"""Find the author's own line: the innermost frame that is not the language's."""

from __future__ import annotations

import dis
import linecache
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType, TracebackType
from typing import Any

from ..errors import Origin, RuleError

_USES = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_CLASSDEREF", "STORE_GLOBAL", "STORE_DEREF", "IMPORT_NAME")
_ROOM = str(Path(__file__).parent)


def _from_position(filename: str, line: int, start: int | None, end: int | None, end_line: int | None) -> Origin:
    text = linecache.getline(filename, line).rstrip("\n")
    # co_positions counts UTF-8 bytes; a caret counts characters.
    raw = text.encode()
    first = len(raw[: start or 0].decode(errors="ignore"))
    last = len(raw[: end or 0].decode(errors="ignore")) if end_line in {None, line} else len(text)
    return Origin(filename, line, text, first, last)


def _of_frame(frame: FrameType, lasti: int) -> Origin:
    positions = list(frame.f_code.co_positions())
    line, end_line, start, end = positions[lasti // 2] if lasti >= 0 else (None, None, None, None)
    return _from_position(frame.f_code.co_filename, line or frame.f_lineno, start, end, end_line)


def here() -> Origin | None:
    """Return where the author's code is now."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    while frame is not None and frame.f_code.co_filename.startswith(_ROOM):
        frame = frame.f_back
    return _of_frame(frame, frame.f_lasti) if frame is not None else None


def of_traceback(traceback: TracebackType | None, function: Callable[..., Any]) -> Origin:
    """Return the innermost place of an exception that lies in the same file as the rule."""
    found = of_definition(function)
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == function.__code__.co_filename:
            found = _of_frame(traceback.tb_frame, traceback.tb_lasti)
        traceback = traceback.tb_next
    return found


def of_name(function: Callable[..., Any], name: str) -> Origin | None:
    """Return where a function first uses a variable of that name; None if it only has attributes called so."""
    codes = [function.__code__]
    while codes:
        code = codes.pop()
        codes += [inner for inner in code.co_consts if isinstance(inner, CodeType)]
        for item in dis.get_instructions(code):
            place = item.positions
            if item.argval == name and item.opname.startswith(_USES) and place is not None and place.lineno is not None:
                return _from_position(code.co_filename, place.lineno, place.col_offset, place.end_col_offset,
                                      place.end_lineno)  # fmt: skip
    return None


def of_definition(function: Callable[..., Any]) -> Origin:
    """Return the `def` line of a rule (below its decorators)."""
    code = function.__code__
    for number in range(code.co_firstlineno, code.co_firstlineno + 30):
        text = linecache.getline(code.co_filename, number).rstrip("\n")
        if text.lstrip().startswith(("def ", "async def ")) or "lambda" in text:
            return Origin(code.co_filename, number, text)
    return Origin(code.co_filename, code.co_firstlineno, "")


def of_return(function: Callable[..., Any]) -> Origin:
    """Return the last `return` line of a rule."""
    lines = [line for _, _, line in function.__code__.co_lines() if line is not None]
    for number in sorted(set(lines), reverse=True):
        text = linecache.getline(function.__code__.co_filename, number).rstrip("\n")
        if text.lstrip().startswith("return"):
            return Origin(function.__code__.co_filename, number, text)
    return of_definition(function)


def refusal(what: str, fix: str, where: Origin | Callable[..., Any] | None = None) -> RuleError:
    """Return the error of a formula: at a place, at a function's definition, or where the author's code is now."""
    place = where if where is None or isinstance(where, Origin) else of_definition(where)
    return RuleError(what, where=place or here(), fix=fix)
