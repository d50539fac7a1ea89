"""One row a format in which an array may lie in memory, and the layout of a parameter with its slots.

A format does not describe its loads and stores: a dialect spells them, and refuses formats that it lacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..graph.graph import Graph, Slot
from ..graph.node import Rank

REMAINDER = "remainder"
"""The name in the state of the tensor that holds what a compensated parameter leaves out."""
ROUNDINGS = ("nearest", "stochastic", "compensated")
STATES = ("float32", "bfloat16")
"""The formats that an optimiser may ask for its slots."""
State = str | Mapping[str, str] | None
"""What it asks: one format for all slots, or one for each of those that are named; None: the usual one."""


@dataclass(frozen=True, slots=True)
class Format:
    """One row: the dtype of the tensor that holds the numbers, and the bytes that an element takes.

    `real` is the type in which they are computed. `beside` is the dtype of a second tensor, which holds the bits that
    the first leaves out. A `narrow` format keeps fewer bits than are computed, so that how a store rounds matters.
    """

    name: str
    dtype: str
    bytes: int
    real: str = "float32"
    beside: str = ""

    @property
    def narrow(self) -> bool:
        """Whether a store loses bits."""
        return self.dtype != self.real and not self.beside

    @property
    def kind(self) -> str:
        """The work of a kernel: read and write numbers as they are, round them, or split them."""
        return "beside" if self.beside else "narrow" if self.narrow else "whole"


KINDS = ("whole", "narrow", "beside")
"""Kinds of which what a store leaves is known from the element alone."""
_ROWS = (
    Format("float64", "float64", 8, "float64"),
    Format("float32", "float32", 4),
    Format("bfloat16", "bfloat16", 2),
    Format("float16", "float16", 2),
    Format("bfloat16 + int16", "bfloat16", 4, beside="int16"),
    Format("float16 + int16", "float16", 4, beside="int16"),
)
FORMATS: dict[str, Format] = {row.name: row for row in _ROWS}
"""Every format, by name; those of one tensor have the name of its dtype."""
NARROW = tuple(row.name for row in _ROWS if row.narrow)
"""Formats in which a store loses bits."""


def format_of(name: str) -> Format:
    """Return the format of a name; a dtype without a row has no kernels, and a byte an element."""
    return FORMATS.get(name) or Format(name, name, 1)


def beside(dtype: str) -> str:
    """Return the name of the format that keeps all bits of a parameter of a dtype; the dtype, if it does so itself."""
    return next((row.name for row in _ROWS if row.dtype == dtype and row.beside), dtype)


@dataclass(frozen=True)
class Layout:
    """How a parameter and its slots lie in memory, by name: what, besides the plan, decides a kernel.

    The stores of `drawn` arrays round stochastically.
    """

    parameter: Format
    slots: tuple[tuple[str, Format], ...]
    rounding: str = "nearest"
    drawn: frozenset[str] = frozenset()

    @property
    def real(self) -> str:
        """The type in which elements are computed."""
        return self.parameter.real

    @property
    def random(self) -> bool:
        """Whether stores draw."""
        return bool(self.drawn)


def asked(state: State, slot: Slot) -> str | None:
    """Return the format that an optimiser asks for a slot; what is one number a tensor stays as it is."""
    if slot.rank is not Rank.ELEMENT:
        return None
    return state if isinstance(state, str) or state is None else state.get(slot.name)


def draws(graph: Graph, state: State) -> bool:
    """Whether a slot is asked for in a format whose stores draw, whatever the parameter's is."""
    return any(format_of(asked(state, slot) or "float32").narrow for slot in graph.slots)


def layout(
    graph: Graph,
    dtype: str,
    rounding: str = "nearest",
    state: State = None,
    found: Mapping[str, str] | None = None,
) -> Layout:
    """Return the layout of a rule beside parameters of a dtype.

    A slot has the dtype that is `found`; else the one that `state` asks for; else the parameter's, or float32 if that
    is narrower and the slot is `single`. Slots that are asked to be narrow draw, whatever the parameter does.
    """
    parameter = format_of(beside(dtype) if rounding == "compensated" else dtype)
    known = found or {}
    slots: list[tuple[str, Format]] = []
    drawn = {graph.parameter} if rounding == "stochastic" and parameter.narrow else set[str]()
    for slot in graph.slots:
        if slot.rank is not Rank.HOST:
            wish = asked(state, slot)
            usual = parameter.real if slot.single or wish == "float32" else wish or parameter.dtype
            form = format_of(known.get(slot.name, usual))
            slots.append((slot.name, form))
            if form.narrow and (rounding == "stochastic" or format_of(wish or "float32").narrow):
                drawn.add(slot.name)
    return Layout(parameter, tuple(slots), rounding, frozenset(drawn))
