"""Purity: a rule is a formula, so a second reading gives the same, and reading changes nothing.

Python runs a rule's function when it reads the formula, not at every step. A number that it draws, a clock that it asks
or a count that it keeps would be fixed there without a word. So it is read twice, and refused if the readings differ.
"""

from __future__ import annotations

import datetime as dt
import itertools
import operator
import random
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import CodeType, FunctionType, ModuleType
from typing import Any

from ..errors import Origin, RuleError, StepruleError
from ..graph.graph import Graph
from .messages import FIX, told
from .origin import of_name, of_return, refusal
from .symbols import Recorder

MORE = 16
"""How often a rule that draws random numbers is read again, if two readings agree by chance."""
FICKLE = {"time", "secrets", "uuid"}
"""Modules whose functions say something else every time, if not at once."""
NOW = {"now", "today", "utcnow"}
DEPTH, WIDTH = 3, 100

Function = Callable[..., Any]


def pure(name: str, functions: Sequence[Function], read: Callable[[Recorder], Graph]) -> Graph:
    """Return the graph that functions write; raise `RuleError` if they write another when they are read again."""
    reached = list(_reached(functions))
    for function in reached:
        _refuse_clocks(name, function)
    recorder = Recorder()
    graph = read(recorder)
    held, dice = _held(reached), _dice()
    _compare(name, functions[-1], read, graph, recorder)
    for (function, label), account in _held(reached).items():
        if account != held.get((function, label)):
            raise refusal(*told("changes", name=name, label=label), of_name(function, label) or function)
    for _ in range(MORE if _dice() != dice else 0):
        _compare(name, functions[-1], read, graph, recorder)
    return graph


def _compare(
    name: str, function: Function, read: Callable[[Recorder], Graph], graph: Graph, recorder: Recorder
) -> None:
    """Read a rule again; the error of a difference shows the first line that differs."""
    again = Recorder(quick=True)
    what, fix = told("not the same", name=name)
    try:
        other = read(again)
    except StepruleError as error:
        raise RuleError(what, where=error.where, fix=fix) from error
    if other.roots == graph.roots and other.gauges == graph.gauges:
        return
    pairs = itertools.zip_longest(recorder.origins, again.origins)
    first = next((node for node, now in pairs if node is not now), graph.new_parameter)
    raise refusal(what, fix, recorder.origins.get(first) or of_return(function))


# What a function can reach ----------------------------------------------------------------------------


def _names(code: CodeType) -> set[str]:
    inner = (const for const in code.co_consts if isinstance(const, CodeType))
    return {*code.co_names, *code.co_freevars}.union(*map(_names, inner))


def _known(function: Function) -> dict[str, Any]:
    """Map the names that a function uses, and its defaults, to what they mean now."""
    known: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            known[name] = cell.cell_contents
        except ValueError:  # not set yet
            continue
    names = _names(function.__code__) - set(known)
    known |= {name: function.__globals__[name] for name in names if name in function.__globals__}
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    return known | {f"a default of {function.__name__}": defaults}


def _reached(functions: Sequence[Function]) -> Iterator[Function]:
    """Give the functions, and those of the same module that they call."""
    seen: set[Function] = set()
    waiting = list(functions)
    while waiting:
        function = waiting.pop()
        if function not in seen:
            seen.add(function)
            yield function
            found = [value for value in _known(function).values() if isinstance(value, FunctionType)]
            waiting += [value for value in found if value.__globals__ is function.__globals__]


def _held(functions: Sequence[Function]) -> dict[tuple[Function, str], object]:
    """Map the values that functions know to an account of their content."""
    known = {(function, label): value for function in functions for label, value in _known(function).items()}
    return {place: _account(value) for place, value in known.items()}


def _account(value: Any, depth: int = DEPTH) -> object:
    """Return something that differs after a value has been changed; modules and the like are taken as they are."""
    if value is None or isinstance(value, int | float | complex | str | bytes | itertools.count):
        return repr(value)
    if depth == 0 or isinstance(value, ModuleType) or type(value).__module__.partition(".")[0] == "steprule":
        return id(value)
    if isinstance(value, Mapping):
        return [(_account(k, 0), _account(v, depth - 1)) for k, v in itertools.islice(value.items(), WIDTH)], len(value)
    if isinstance(value, list | tuple | set | frozenset | deque):
        return [_account(item, depth - 1) for item in itertools.islice(value, WIDTH)], len(value)
    for name in ("getstate", "get_state"):
        if callable(getattr(value, name, None)) and not isinstance(value, type):
            return str(getattr(value, name)())
    if hasattr(value, "bit_generator"):
        return str(value.bit_generator.state)
    if hasattr(value, "__dict__"):
        return id(value), getattr(value, "_version", None), _account(dict(vars(value)), depth - 1) if depth > 1 else 0
    return id(value), operator.length_hint(value, -1)


def _dice() -> object:
    """Return the state of the random numbers that all of a process share."""
    drawn: list[object] = [random.getstate()]
    if (numpy := sys.modules.get("numpy")) is not None:
        _, keys, *rest = numpy.random.get_state()
        drawn += [keys.tobytes(), rest]
    if (torch := sys.modules.get("torch")) is not None:
        drawn += [torch.random.get_rng_state().numpy().tobytes()]
    return drawn


def _refuse_clocks(name: str, function: Function) -> None:
    """Refuse clocks and the like: two readings in a row may agree, a later one does not."""
    names = _names(function.__code__)
    known = dict.fromkeys(names & FICKLE) | {"id": None} | _known(function)
    for label, value in known.items():
        module = getattr(value, "__name__" if isinstance(value, ModuleType) else "__module__", None)
        dated = value is dt or (isinstance(value, type) and issubclass(value, dt.date))
        fickle = value is None or module in FICKLE or (dated and bool(names & NOW))
        where: Origin | None = of_name(function, label) if fickle and label in names else None
        if where is not None and (value is not None or label not in function.__globals__):
            raise refusal(f"`{name}` asks `{label}`, which says something else every time", FIX, where)
