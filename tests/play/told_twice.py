"""Read a text as Python does and as the browser does, and put both into the same plain data."""

from __future__ import annotations

import contextlib
import linecache
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from engine import ask

from steprule.errors import StepruleError
from steprule.graph.graph import Graph
from steprule.graph.node import Node, Rank
from steprule.graph.show import formula, latex, symbol
from steprule.graph.twice import paths
from steprule.rule import Formula


def attribute(node: Node) -> Any:
    """Return what a node holds, as JSON has it."""
    if isinstance(node.attr, tuple):
        return [node.attr[0], node.attr[1].name]
    return node.attr.name if isinstance(node.attr, Rank) else node.attr


def dumped(graph: Graph) -> dict[str, Any]:
    """Return a graph as plain data: its nodes in order, and what is made of them."""
    place = {node: index for index, node in enumerate(graph.nodes)}
    return {
        "name": graph.name,
        "nodes": [[n.op, [place[x] for x in n.inputs], attribute(n), n.rank.name] for n in graph.nodes],
        "roots": [place[root] for root in graph.roots],
        "gradients": [[place.get(node), name] for node, name in graph.gradients.items()],
        "gauges": [item.name for item in graph.gauges],
        "first": graph.first,
        "counts": graph.counts_steps,
    }


def described(program: Formula) -> dict[str, Any]:
    """Return what both say of a program."""
    graph = program.graph
    if any(part.moves is None for part in program.parts):
        paths(graph)  # an optimiser refuses some points
        if graph.implicit:
            program.optimizer([torch.nn.Parameter(torch.zeros(2))], backend="eager")
    return {
        "name": program.name,
        "latex": latex(graph),
        "text": formula(graph),
        "hypers": [
            {
                "name": one.name,
                "value": one.value,
                "low": one.low if one.low is not None else one.above,
                "high": one.high if one.high is not None else one.below,
                "openLow": one.above is not None,
                "openHigh": one.below is not None,
                "symbol": symbol(one.name, latex=True),
                "tune": list(one.tune) if one.tune else None,
            }
            for one in program.hypers.values()
        ],
        "slots": [{"name": slot.name, "rank": slot.rank.word, "init": slot.init} for slot in graph.slots],
        "graph": dumped(graph),
    }


def by_python(source: str, folder: Path) -> dict[str, Any]:
    """Run a text as a file of Python, and return what its last program is, or its error."""
    file = folder / "rule.py"
    file.write_text(source, encoding="utf-8")
    linecache.checkcache(str(file))
    module = ModuleType("rule")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(compile(source, str(file), "exec"), vars(module))  # noqa: S102
        found = [value for value in vars(module).values() if isinstance(value, Formula)]
        return described(vars(module).get("program", found[-1] if found else None))
    except StepruleError as error:
        return {"error": error, "told": (error.what, error.where.replace(str(file), "rule.py"), error.fix)}


def by_browser(source: str) -> dict[str, Any]:
    """Return the same, as the browser reads it."""
    found = ask("built", source, {})
    if found["errors"]:
        (first, *_) = found["errors"]
        return {"told": (first["what"], first["where"], first["fix"]), **first}
    return found["program"]


def same_error(one: tuple[str, str, str], other: tuple[str, str, str]) -> bool:
    """Whether two errors say the same in all parts: where, too, if Python points into the text.

    What Python says of a definition of the zoo, or of no place at all, the page says of the words that use it.
    """
    here = one[1].startswith('  File "rule.py"')
    return (one[0], one[2]) == (other[0], other[2]) and (not here or one[1] == other[1])


@contextlib.contextmanager
def showing(source: str) -> Any:
    """Show the text that two readers disagree about."""
    try:
        yield
    except AssertionError as error:
        error.add_note(source)
        raise
