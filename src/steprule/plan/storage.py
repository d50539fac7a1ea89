"""One row a format in which an array may lie in memory, and the layout of a parameter with its slots.

A format does not describe its loads and stores: a dialect spells them, and refuses formats that it lacks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ..graph.graph import Graph, Slot
from ..graph.node import Rank
from .groups import GROUP, WORDS

REMAINDER = "remainder"
"""The name in the state of the tensor that holds what a compensated parameter leaves out."""
ROUNDINGS = ("nearest", "stochastic", "compensated", "compensated8")
KEEPING = ("compensated", "compensated8")
"""Those that keep what 16 bits leave out: 16 bits of it, or 8."""
STATES = ("float32", "bfloat16", *WORDS)
"""The formats that an optimiser may ask for its slots."""
State = str | Mapping[str, str] | None
"""What it asks: one format for all slots, or one for each of those that are named; None: the usual one."""


@dataclass(frozen=True, slots=True)
class Format:
    """One row: the dtype of the tensor that holds the numbers, and the bytes that an element takes.

    `real` is the type in which they are computed. `beside` is the dtype of a second tensor, which holds the bits that
    the first leaves out. Numbers that are `grouped` are in units of their group, whose exponents a second tensor holds.
    A `narrow` format keeps fewer bits than are computed, so that how a store rounds matters.
    """

    name: str
    dtype: str
    bytes: float
    real: str = "float32"
    beside: str = ""
    grouped: bool = False

    @property
    def narrow(self) -> bool:
        """Whether a store loses bits."""
        return self.dtype != self.real and not self.beside

    @property
    def more(self) -> str:
        """The number of bits beside 16, as formulas are called by it; of 16 more, nothing."""
        return "8" if self.beside == "int8" else ""

    @property
    def kind(self) -> str:
        """The work of a kernel: read and write numbers as they are, round them, split them, or code them."""
        return "beside" if self.beside else "grouped" if self.grouped else "narrow" if self.narrow else "whole"


_ROWS = (
    Format("float64", "float64", 8, "float64"),
    Format("float32", "float32", 4),
    Format("bfloat16", "bfloat16", 2),
    Format("float16", "float16", 2),
    Format("bfloat16 + int16", "bfloat16", 4, beside="int16"),
    Format("float16 + int16", "float16", 4, beside="int16"),
    Format("bfloat16 + int8", "bfloat16", 3, beside="int8"),
    Format("float16 + int8", "float16", 3, beside="int8"),
    Format("int8", "int8", 1 + 1 / GROUP, grouped=True),
    Format("uint8", "uint8", 1 + 1 / GROUP, grouped=True),
)
FORMATS: dict[str, Format] = {row.name: row for row in _ROWS}
"""Every format, by name; those of one tensor have the name of its dtype."""
NARROW = tuple(row.name for row in _ROWS if row.narrow and not row.grouped)
"""Formats in which a store of one number loses bits."""
CODES = tuple(row.name for row in _ROWS if row.grouped)
"""Formats of 8 bits, in units of a group: of any numbers, and of such as are never negative."""


def format_of(name: str) -> Format:
    """Return the format of a name; a dtype without a row has no kernels, and a byte an element."""
    return FORMATS.get(name) or Format(name, name, 1)


def units_of(slot: str) -> str:
    """Return the name in the state of the exponents of a slot's units."""
    return f"{slot}_scale"


def beside(dtype: str, rounding: str) -> str:
    """Return the name of the format that keeps more bits of a parameter of a dtype; the dtype, if it has them."""
    rest = "int8" if rounding == "compensated8" else "int16"
    return next((row.name for row in _ROWS if row.dtype == dtype and row.beside == rest), dtype)


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
    """Return the format that an optimiser asks for a slot; what is smaller than the parameter, or wide, stays."""
    if slot.rank is not Rank.ELEMENT or slot.wide:
        return None
    return state if isinstance(state, str) or state is None else state.get(slot.name)


def draws(graph: Graph, state: State) -> bool:
    """Whether a slot is asked for in a format whose stores draw, whatever the parameter's is."""
    return any(_drawn(asked(state, slot)) for slot in graph.slots)


def _drawn(wish: str | None) -> bool:
    return bool(wish) and wish != "float32"


def layout(
    graph: Graph,
    dtype: str,
    rounding: str = "nearest",
    state: State = None,
    found: Mapping[str, str] | None = None,
    *,
    groups: Collection[str] = WORDS,
) -> Layout:
    """Return the layout of a rule beside parameters of a dtype.

    A slot has the dtype that is `found`; else the one that `state` asks for; else the parameter's, or float32 if that
    is narrower and the slot is `single`; one number for all tensors is float64. Slots that are asked to be narrow draw,
    whatever the parameter does. Slots asked to be in 8 bits by another word than those of `groups` are float32.
    """
    parameter = format_of(beside(dtype, rounding) if rounding in KEEPING else dtype)
    known = found or {}
    slots: list[tuple[str, Format]] = []
    drawn = {graph.parameter} if rounding == "stochastic" and parameter.narrow else set[str]()
    for slot in graph.slots:
        if slot.rank is not Rank.HOST:
            wish = asked(state, slot)
            wide = slot.single or wish == "float32" or (wish in WORDS and wish not in groups)
            usual = parameter.real if wide else wish or parameter.dtype
            if slot.rank is Rank.GLOBAL:
                usual = "float64"
            if usual in WORDS:
                usual = CODES[slot.low == 0]
            form = format_of(known.get(slot.name, usual))
            slots.append((slot.name, form))
            if form.narrow and (rounding == "stochastic" or form.grouped or _drawn(wish)):
                drawn.add(slot.name)
    return Layout(parameter, tuple(slots), rounding, frozenset(drawn))


def state_bytes_once(graph: Graph, own: Layout) -> float:
    """Return the bytes of state for all tensors together."""
    return sum(form.bytes for name, form in own.slots if graph.ranks[name] is Rank.GLOBAL)


def state_bytes(graph: Graph, own: Layout) -> float:
    """Return the bytes of state a parameter in a layout; slots smaller than the parameter count nothing."""
    beside = own.parameter.bytes - format_of(own.parameter.dtype).bytes
    return beside + sum(form.bytes for name, form in own.slots if graph.ranks[name] is Rank.ELEMENT)
