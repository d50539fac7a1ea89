"""A rule as an optimiser runs it: with the clipping before it, and the ways to where it wants its gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..errors import HyperparameterError, RuleError
from ..graph.bounds import never_negative
from ..graph.gauges import watched
from ..graph.graph import Graph
from ..graph.look_ahead import LookAhead
from ..graph.twice import Twice, paths
from ..plan.schedule import schedule
from ..plan.storage import KEEPING, REMAINDER, draws
from ..rule import Formula, Transform, chain
from .compiled import Kernels, Reader
from .options import Options


@dataclass(frozen=True, eq=False)
class Prepared:
    """A rule with the options of one optimiser: the formula that runs, and the kernels of each of its forms."""

    rule: Formula
    formula: Formula
    """The rule, with the transforms before it."""
    kernels: Kernels
    """Those for gradients at the stored parameters."""
    exact: Kernels
    """Those for gradients that a closure has taken at another point; the same without one."""
    paths: LookAhead | Twice | None

    @property
    def implicit(self) -> bool:
        """Whether it takes its gradient where its step ends."""
        return self.formula.graph.implicit

    def of_clip(self) -> dict[str, Any]:
        """Return the hyperparameters that stand in groups because of the option `clip`."""
        return {name: hyper.value for name, hyper in self.formula.hypers.items() if name not in self.rule.hypers}

    def defaults(self, given: Mapping[str, Any], *, own: bool) -> dict[str, Any]:
        """Return what a group has if it says nothing else, of what the constructor was `given` and the rule declares.

        A value with which the rule of a group was configured is nearer to the group than the constructor's.
        """
        nearer = {} if own else {name: hyper.value for name, hyper in self.rule.hypers.items() if hyper.given}
        declared = {name: hyper.value for name, hyper in self.formula.hypers.items()}
        return {name: (nearer if name in nearer else given).get(name, value) for name, value in declared.items()}


def prepare(rule: Formula, options: Options, reader: Callable[[str], Reader]) -> Prepared:
    """Prepare a rule. Raises `RuleError` for what is no rule, or cannot be stored as the options ask for."""
    formula = _composed(rule, options)
    ways = paths(watched(formula.graph, options.watch))

    def compiled(graph: Graph) -> Kernels:
        readers = tuple(reader(hyper.name) for hyper in graph.hypers)
        return Kernels(formula, schedule(seen(graph, options), guarded=options.guarded), readers, options)

    kernels = compiled(ways.stored if ways else formula.graph)
    exact = kernels if ways is None or ways.exact is ways.stored else compiled(ways.exact)
    return Prepared(rule, formula, kernels, exact, ways)


def _composed(rule: Formula, options: Options) -> Formula:
    """Put the clipping before the rule, and make sure that the result is a rule."""
    program = rule
    if isinstance(options.clip, Formula):
        program = chain(options.clip, rule)
    elif isinstance(rule, Transform):
        program = chain(rule)  # which words the error
    return storable(program, options)


def storable(formula: Formula, options: Options) -> Formula:
    """Return a formula whose parameter can be stored as the options ask for, or raise `RuleError`."""
    graph = formula.graph
    if options.rounding not in KEEPING:
        return formula
    if graph.looks_ahead:
        raise RuleError(
            f"`{graph.name}` stores its look-ahead point, which cannot be compensated",
            fix='use rounding="stochastic" or "nearest", or a rule without evaluate_at',
        )
    taken = {slot.name for slot in graph.slots} | {item.name for item in graph.hypers}
    if REMAINDER in taken | {graph.parameter, graph.gradient}:
        raise RuleError(f"`{graph.name}` has a `{REMAINDER}` of its own", fix="give that argument another name")
    return formula


def named(graphs: Iterable[Graph]) -> str:
    """Name rules, one of which would do."""
    return " or ".join(dict.fromkeys(f"`{graph.name}`" for graph in graphs))


def check_slots(graphs: Iterable[Graph], options: Options) -> None:
    """Raise `HyperparameterError` for a format of what is a slot of no rule, or one smaller than the parameter."""
    rules = list(graphs)
    known = list(dict.fromkeys(slot.name for graph in rules for slot in graph.element_slots if not slot.wide))
    for name in options.state if isinstance(options.state, dict) else ():
        if name not in known and any(slot.name == name and slot.wide for graph in rules for slot in graph.slots):
            raise HyperparameterError(
                f"state names {name!r}, which {named(rules)} keeps in float32",
                where=f"  state={options.state!r}",
                fix="leave it out of state",
            )
        if name not in known:
            raise HyperparameterError(
                f"state names {name!r}, which is no slot of {named(rules)} as large as its parameter",
                where=f"  state={options.state!r}",
                fix=f"it has {', '.join(map(repr, known))}" if known else "it has none: leave state out",
            )


def seen(graph: Graph, options: Options) -> Graph:
    """Return a graph with the gauges that options ask for, which knows what draws must: its step, and slots' signs."""
    graph = watched(graph, options.watch)
    if options.rounding != "stochastic" and not draws(graph, options.state):
        return graph
    sure = never_negative(graph)
    slots = tuple(replace(slot, low=0.0) if slot.name in sure else slot for slot in graph.slots)
    return replace(graph, counts_steps=True, slots=slots)
