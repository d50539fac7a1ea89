"""The classes of optimisers: one table of all, and a page each with formula, arguments, bytes and kernel."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from docutils import nodes
from entries import Entry, entry_of, formula_entry, public, size
from made import code, folded, link, paragraph, table
from sphinx.util.docutils import SphinxDirective
from torch import zeros
from torch.nn import Parameter

import steprule as sr
from steprule import zoo
from steprule.errors import StepruleError
from steprule.rule import Rule, Transform

FORMATS = ("bfloat16", "8bit")


def is_named(value: Any) -> bool:
    """Whether a value is an optimiser's class that has a rule of its own."""
    return inspect.isclass(value) and issubclass(value, sr.Optimizer) and value is not sr.Optimizer


@cache
def names() -> list[str]:
    """Return the classes' names."""
    found = [name for name in public()["steprule.optim"] if is_named(entry_of(f"steprule.optim.{name}").value)]
    return sorted(found, key=str.lower)


@cache
def explained(name: str, **options: Any) -> sr.Explanation:
    """Explain a class as its defaults make it, for one matrix of 64 × 64 numbers."""
    return sr.explain(entry_of(f"steprule.optim.{name}").value([Parameter(zeros(64, 64))], **options))


@cache
def zoo_of() -> dict[str, Rule | Transform]:
    """Return every rule and transform of the zoo, by its function's name."""
    modules = [import_module(f"steprule.zoo.{found.name}") for found in pkgutil.iter_modules(zoo.__path__)]
    own = [module for module in modules if module is not sr.board]
    return {
        name: value for module in own for name, value in vars(module).items() if isinstance(value, Rule | Transform)
    }


def state(name: str) -> list[str]:
    """Return the bytes of state a parameter in float32 and in every narrower format; a dash where it refuses one."""
    found = [size(explained(name).state_bytes_per_parameter)]
    for form in FORMATS:
        try:
            found.append(size(explained(name, state=form).state_bytes_per_parameter))
        except StepruleError:
            found.append("–")
    return found


class Optimisers(SphinxDirective):
    """The table of all classes."""

    def run(self) -> list[nodes.Node]:
        """Return it."""
        rows = list(map(_line, names()))
        head = ("class", "what it does", "passes", "bytes a step", "state", *FORMATS)
        return [table(head, rows, "optimisers")]


def _line(name: str) -> tuple[str | nodes.Node, ...]:
    told, entry = explained(name), entry_of(f"steprule.optim.{name}")
    cost = str(len(told.passes)), size(told.bytes_per_parameter)
    return link(f"steprule.optim.{name}", name), entry.sentence, *cost, *state(name)


def what_runs(name: str) -> Iterator[nodes.Node]:
    """Show what a class runs with its defaults: formula, bytes, rules as they are written, and the kernel."""
    told = explained(name)
    yield nodes.math_block(told.latex, told.latex, nowrap=True, number=None)
    yield paragraph(_bytes(name, told))
    rows = [(one["summary"], size(one["bytes_per_parameter"]), str(one["flops_per_parameter"])) for one in told.passes]
    yield table(("pass over memory", "bytes a parameter", "flops a parameter"), rows)
    for part in told.name.split("+"):
        yield from _rule(part)
    lines = len(told.source.splitlines())
    yield from folded(f"The CPU kernel that runs it, in float32: {lines} lines", code(told.source))


def _bytes(name: str, told: sr.Explanation) -> str:
    """Say what a step moves and what state takes."""
    full, *narrow = state(name)
    slots = ", ".join(f"`{key}`" for key in _kept(name))
    words = [f"A step moves {size(told.bytes_per_parameter)} bytes a parameter in float32, and state takes {full}."]
    words += [f'With `state="{form}"` it takes {number}.' for form, number in zip(FORMATS, narrow, strict=True)
              if number not in {full, "–"}]  # fmt: skip
    words.append(f"Its slots are {slots}." if slots else "It keeps no slot.")
    if told.matrix_bytes:
        words.append(f"Matrices beside a parameter of 64 × 64 numbers take {told.matrix_bytes:,} bytes.")
    return " ".join(words)


def _kept(name: str) -> list[str]:
    """Return the slots of state, under the keys of `state_dict`."""
    return [key for part in explained(name).name.split("+") if part in zoo_of()
            for key in (slot.name for slot in zoo_of()[part].graph.slots)]  # fmt: skip


def _rule(part: str) -> Iterator[nodes.Node]:
    """Show the source of a link of the chain that runs."""
    if part in zoo_of():
        entry: Entry = formula_entry(part, zoo_of()[part])
        yield from folded(f"The rule `{part}`, as it is written: `{entry.place}`", paragraph(entry.sentence),
                          code(entry.source))  # fmt: skip


def write(folder: Path) -> None:
    """Write a page for each class; a page that has not changed stays as old as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {
        folder / f"{name.lower()}.md": f"# {name}\n\n```{{names}} steprule.optim\n{name}\n```\n" for name in names()
    }
    for path in set(folder.iterdir()) - wanted.keys():
        path.unlink()
    for path, text in wanted.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
