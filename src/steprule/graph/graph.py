"""Graph: a whole update rule as data, with what it declares about its slots and hyperparameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..errors import HyperparameterError, Origin
from ..locks import once
from .node import Node, Rank, topological

MISSING = "`{name}` of {owner} has no value", "pass it, e.g. {name}={value}; its legal range is {interval}"
OUTSIDE = (
    "`{name}` of {owner} is {value}, outside its legal range {interval}",
    "give a finite number in {interval}",
)
"""What is wrong with a hyperparameter's value, and what to do."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A state array kept from step to step: where it varies and what it starts from, mostly a number.

    With `low` 0 it is never negative, which the rule's author promises; a `wide` one is never narrower than float32.
    """

    name: str
    rank: Rank = Rank.ELEMENT
    init: float | Literal["theta", "identity"] = 0.0
    low: float | None = None
    wide: bool = False

    @property
    def single(self) -> bool:
        """Whether it has float32 at least beside narrower parameters: as all that is smaller than the parameter has."""
        return self.wide or (self.rank > Rank.HOST and self.rank is not Rank.ELEMENT)


@dataclass(frozen=True, slots=True)
class Hyper:
    """A hyperparameter: its value (None: an author must give it) and its legal range."""

    name: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    shared: bool = False
    only: object = None
    """The variant of the rule to which it belongs; None: every one."""
    given: bool = False
    """Whether the rule was configured with its value, which is not the one that the rule declares."""
    told: bool = False
    """Whether a step is given it, as the loss is, and no group has it; it may be any number."""
    tune: tuple[float, float] | None = None
    """The range in which a search looks for its value, if the rule's author says one."""

    def interval(self) -> str:
        """Spell the legal range as mathematicians do, e.g. `[0, 1)`."""
        left = f"[{self.low:g}" if self.low is not None else f"({self.above:g}" if self.above is not None else "(−∞"
        right = f"{self.high:g}]" if self.high is not None else f"{self.below:g})" if self.below is not None else "∞)"
        return f"{left}, {right}"

    def admits(self, number: float) -> bool:
        """Whether a number is finite and in the legal range."""
        return self.told or (
            math.isfinite(number)
            and (self.low is None or number >= self.low)
            and (self.high is None or number <= self.high)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
        )

    def example(self) -> float:
        """Return a number in the legal range; NaN if it is empty."""
        ends = [end for end in (self.low, self.above, self.high, self.below) if end is not None]
        inner = [sum(ends) / len(ends), *(end + 1 for end in ends), *(end - 1 for end in ends)] if ends else []
        return next(filter(self.admits, (0.1, *ends, *inner)), math.nan)

    def check(self, value: object, owner: str) -> float:
        """Return the value as a float, or raise the one error that words a bad hyperparameter."""
        try:
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, RuntimeError, OverflowError):
            number = math.nan
        if self.admits(number) and not isinstance(value, str):
            return number
        if value is None:
            words, given = MISSING, f"{self.example():g}"
        else:
            words, given = OUTSIDE, repr(value)
        what, fix = (text.format(name=self.name, owner=owner, value=given, interval=self.interval()) for text in words)
        raise HyperparameterError(what, fix=fix)


LOSS = Hyper("loss", told=True)
"""The value of the loss at this step."""


@dataclass(frozen=True, slots=True)
class Gauge:
    """A number to watch: its formula, and the outermost reductions in that, each as written and as it is computed.

    It has a value for every tensor, and one for all: that in which the elements of all tensors are reduced as one's.
    """

    name: str
    formula: Node
    parts: tuple[tuple[Node, Node], ...]
    whole: bool = False
    """Whether it is of all tensors together, and no tensor has one."""


def gauge(name: str, formula: Node) -> Gauge:
    """Return a gauge as it is written."""
    wanted = topological([formula])
    outer = topological([formula], {node for node in wanted if node.reduces})
    return Gauge(name, formula, tuple((node, node) for node in outer if node.reduces))


@dataclass(frozen=True, eq=False)
class Graph:
    """A rule: what it reads, what it declares, and the node of every new value.

    `gradients` names the gradient after each transform (for print); `evaluate_at` is the point where the
    gradient is taken, if not the parameter itself: the new parameter in an implicit rule; `first` names the
    gradient at the parameter itself, if the rule has that, too: where its update reads it, it is the last slot.
    `origins` holds the source line that first wrote each node. `gauges` are further outputs, which nothing else reads.
    """

    name: str
    parameter: str
    gradient: str
    slots: tuple[Slot, ...]
    hypers: tuple[Hyper, ...]
    new_parameter: Node
    new_slots: tuple[Node, ...]
    gradients: Mapping[Node, str] = field(default_factory=dict[Node, str])
    evaluate_at: Node | None = None
    first: str = ""
    counts_steps: bool = False
    origins: Mapping[Node, Origin] = field(default_factory=dict[Node, Origin])
    gauges: tuple[Gauge, ...] = ()

    @property
    def implicit(self) -> bool:
        """Whether the gradient is taken where the step ends, which depends on it."""
        return self.evaluate_at is self.new_parameter and not self.first

    @property
    def looks_ahead(self) -> bool:
        """Whether the stored parameters are, between steps without a closure, the point where the gradient is taken."""
        return self.evaluate_at is not None and not self.implicit and not self.first

    @once
    def outputs(self) -> tuple[tuple[str, Node], ...]:
        """The (name, new value) of the parameter and of every slot, in order."""
        names = (self.parameter, *(slot.name for slot in self.slots))
        return tuple(zip(names, (self.new_parameter, *self.new_slots), strict=True))

    @once
    def ranks(self) -> dict[str, Rank]:
        """Where each array varies, by name: the parameter, the gradient and every slot."""
        first = (self.first,) if self.first else ()
        whole = dict.fromkeys((self.parameter, self.gradient, *first), Rank.ELEMENT)
        return whole | {slot.name: slot.rank for slot in self.slots}

    @property
    def names(self) -> list[str]:
        """The names of all arguments."""
        return [self.parameter, self.gradient, *(item.name for item in (*self.slots, *self.hypers))]

    @once
    def nodes(self) -> tuple[Node, ...]:
        """Every node, inputs before users."""
        return tuple(topological(self.roots))

    @property
    def roots(self) -> tuple[Node, ...]:
        """The nodes of the outputs, of the look-ahead point if there is one, and of what gauges reduce."""
        point = () if self.evaluate_at is None else (self.evaluate_at,)
        return (self.new_parameter, *self.new_slots, *point, *self.watched)

    @property
    def watched(self) -> tuple[Node, ...]:
        """The nodes of what gauges reduce."""
        return tuple(node for item in self.gauges for _, node in item.parts)

    @once
    def draws(self) -> tuple[Node, ...]:
        """The random numbers it asks for."""
        return tuple(node for node in self.nodes if node.kind == "chance")

    @once
    def uses_step(self) -> bool:
        """Whether the optimiser counts steps: t appears, something is drawn, or the rule has t as an argument."""
        return self.counts_steps or bool(self.draws) or any(node.op == "step" for node in self.nodes)

    @once
    def uses_loss(self) -> bool:
        """Whether a step must be given the loss."""
        return any(item.told for item in self.hypers)

    @once
    def common(self) -> tuple[str, ...]:
        """The hyperparameters of which slots are made that hold one number for all tensors: all groups must agree."""
        new = [node for slot, node in zip(self.slots, self.new_slots, strict=True) if slot.rank is Rank.GLOBAL]
        own = topological(new, {node for node in topological(new) if node.kind == "global"})
        return tuple(str(node.attr) for node in own if node.op == "hyper")

    @property
    def global_slots(self) -> tuple[Slot, ...]:
        """The slots that hold one number for all tensors."""
        return tuple(slot for slot in self.slots if slot.rank is Rank.GLOBAL)

    @property
    def element_slots(self) -> tuple[Slot, ...]:
        """The slots as large as the parameter."""
        return tuple(slot for slot in self.slots if slot.rank is Rank.ELEMENT)
