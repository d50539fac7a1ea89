"""Run a chain of functions once on symbols and collect the graph they write."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from ..errors import Origin, RuleError, StepruleError
from ..graph.gauges import factor
from ..graph.graph import LOSS, Graph, Hyper, Slot, gauge
from ..graph.node import Node, Rank, make, read, told_apart, topological
from ..graph.node import hyper as hyper_node
from ..graph.node import step as step_node
from ..graph.verify import verify
from . import advice
from .messages import phrase, told
from .origin import of_definition, of_return, of_traceback, refusal
from .purity import pure
from .signature import STEP, Signature
from .symbols import Recorder, Symbol, lift, reading

Moves = Literal["gradient", "parameter", "update"]
Declared = TypeVar("Declared", Slot, Hyper)


@dataclass(frozen=True)
class Part:
    """One function of a chain, with its name, values and variants."""

    name: str
    function: Callable[..., Any]
    signature: Signature
    hypers: dict[str, Hyper]
    chosen: dict[str, Any]
    moves: Moves | None = None
    """What a transform returns; None for a rule."""
    evaluate_at: Callable[..., Any] | None = None

    @property
    def given(self) -> int:
        """The number of arrays before its slots: parameter, gradient, and the new parameter if it changes that."""
        return 3 if self.moves == "update" else 2

    @property
    def own(self) -> dict[str, Hyper]:
        """The hyperparameters that the chosen variants have."""
        return {name: one for name, one in self.hypers.items() if one.only in {None, *self.chosen.values()}}

    @property
    def keywords(self) -> dict[str, Any]:
        """The values and variants under the function's own names."""
        return {name: one.value for name, one in self.hypers.items()} | self.chosen


def _claim(declared: Declared, part: str, taken: dict[str, Slot | Hyper]) -> Declared:
    """Return a slot or hyperparameter under a free name: a part that finds its name taken prefixes it with its own."""
    if isinstance(declared, Hyper) and declared.shared and isinstance(known := taken.get(declared.name), Hyper):
        return known
    own = replace(declared, name=_free(declared.name, part, taken))
    taken[own.name] = own
    return own


def _free(wanted: str, part: str, taken: Container[str]) -> str:
    name, count = wanted, 1
    while name in taken or name == STEP:
        name = f"{part}_{wanted}" if count == 1 else f"{part}_{wanted}_{count}"
        count += 1
    return name


@dataclass
class _Bound:
    """The symbols a part is called with."""

    part: Part
    slots: list[Slot]
    arrays: dict[str, Symbol]
    keywords: dict[str, Any]
    first: Any = None
    """The gradient at the parameter itself, in the unit that transforms before the part have given it."""


def _first_claims(parts: Sequence[Part]) -> tuple[Part, dict[str, Slot | Hyper]]:
    """Return the part whose names come first, which is the rule, and what it calls its arrays."""
    last = next((part for part in parts if part.moves is None), parts[-1])
    names = (*last.signature.arrays[:2], last.signature.first)
    own = names[: 2 + any(part.evaluate_at is not None for part in parts)]
    return last, {name: Slot(name) for name in own}


def owners(parts: Sequence[Part]) -> dict[str, list[tuple[int, str]]]:
    """List, for each hyperparameter of a chain, the places of the parts that have it, with their own names for it."""
    last, taken = _first_claims(parts)
    found: dict[str, list[tuple[int, str]]] = {}
    for place in sorted(range(len(parts)), key=lambda place: parts[place] is not last):
        part = parts[place]
        for slot in part.signature.slots:
            _claim(slot, part.name, taken)
        for name, declared in part.own.items():
            found.setdefault(_claim(declared, part.name, taken).name, []).append((place, name))
    return found


def _bind(part: Part, taken: dict[str, Slot | Hyper], recorder: Recorder) -> _Bound:
    slots = [_claim(slot, part.name, taken) for slot in part.signature.slots]
    names = part.signature.arrays[part.given :]
    arrays = {name: Symbol(read(own.name, own.rank), recorder) for name, own in zip(names, slots, strict=True)}
    keywords = part.keywords
    for name, declared in part.own.items():
        keywords[name] = Symbol(hyper_node(_claim(declared, part.name, taken).name), recorder)
    if part.signature.wants_step:
        keywords[STEP] = Symbol(step_node(), recorder)
    if part.signature.wants_loss:
        keywords[LOSS.name] = Symbol(hyper_node(LOSS.name), recorder)
    return _Bound(part, slots, arrays, keywords)


def call(function: Callable[..., Any], arguments: Sequence[Any], keywords: dict[str, Any]) -> Any:
    """Call an author's function on symbols; an error names the author's line."""
    try:
        return function(*arguments, **keywords)
    except StepruleError:
        raise
    except RecursionError as error:
        raise refusal(*told("recursion", name=function.__name__), of_definition(function)) from error
    except Exception as error:
        where = of_traceback(error.__traceback__, function)
        case, kind = "unknown name" if isinstance(error, NameError) else "error", type(error).__name__
        words = told(case, kind=kind, name=function.__name__, error=error, fix=_advice(error, where))
        raise refusal(*words, where) from error


def _advice(error: Exception, where: Origin) -> str:
    """Say what to do about Python's own errors in a rule."""
    name = advice.called(where)
    if isinstance(error, UnboundLocalError):
        return phrase("assigned", name=error.name or str(error).split("'")[1])  # Python names it in words alone
    if isinstance(error, NameError | AttributeError) and error.name:
        return advice.instead(error.name)
    if isinstance(error, TypeError) and name in advice.FUNCTIONS:
        return advice.misused(name, str(error))
    if isinstance(error, TypeError) and name in advice.SPELLED:
        return advice.instead(name)
    return phrase("Python", listed=advice.LISTED)


def _returned(value: Any, recorder: Recorder, function: Callable[..., Any]) -> Node:
    """Return the node of what a function returned; by then, its own lines are over."""
    try:
        return lift(value, recorder)
    except RuleError as error:
        raise RuleError(error.what, where=of_return(function), fix=error.fix) from None


def _run(bound: _Bound, given: Sequence[Symbol], first: Symbol, recorder: Recorder) -> list[Node]:
    part, bound.first = bound.part, first
    if part.signature.wants_first:
        bound.keywords[part.signature.first] = first
    result = call(part.function, [*given, *bound.arrays.values()], bound.keywords)
    values: tuple[Any, ...] = tuple(result) if isinstance(result, tuple | list) else (result,)
    parameter, gradient, *slots = part.signature.arrays
    slots = slots[part.given - 2 :]
    wanted = [gradient if part.moves == "gradient" else parameter, *slots]
    if len(values) != len(wanted) or any(value is None for value in values):
        news = ", ".join(phrase("new", name=name) for name in wanted)
        count = "no" if result is None else len(values)
        words = told("returns", name=part.name, given=count, needed=len(wanted), told=news, wanted=", ".join(wanted))
        raise refusal(*words, of_return(part.function))
    nodes = [_returned(value, recorder, part.function) for value in values]
    if not nodes[0].rank <= Rank.ELEMENT:
        words = told("returns a matrix", name=wanted[0], sides=advice.sides(nodes[0].rank))
        raise refusal(*words, recorder.origins.get(nodes[0], of_return(part.function)))
    for name, node in zip(wanted, nodes, strict=True):
        if node.truth:
            words = told("returns a comparison", name=name)
            raise refusal(*words, recorder.origins.get(node, of_return(part.function)))
    for slot, node in zip(bound.slots, nodes[1:], strict=True):
        if not node.rank <= slot.rank:
            raise refusal(*_too_small(slot, node), recorder.origins.get(node, of_return(part.function)))
        if slot.rank is Rank.GLOBAL:
            _refuse_own(slot, node, recorder, of_return(part.function))
    return nodes


def _too_small(slot: Slot, value: Node) -> tuple[str, str]:
    """Say what is wrong with a slot that its new value does not fit into, and what to do."""
    fix = _room_for(slot, value)
    if slot.rank.apart or value.rank.apart:
        held, given = advice.sides(slot.rank), advice.sides(value.rank)
        return told("slot of a matrix", name=slot.name, held=held, given=given, fix=fix)
    return told("slot too small", name=slot.name, held=slot.rank.each, given=value.rank.word, fix=fix)


def _refuse_own(slot: Slot, value: Node, recorder: Recorder, end: Origin) -> None:
    """Refuse a number for all tensors that is made of what each counts for itself."""
    own = told_apart(value)
    if own is None:
        return
    users = [node for node in topological([value]) if own in node.inputs]
    where = next((recorder.origins[node] for node in users if node in recorder.origins), end)
    raise refusal(*told("slot of all", slot=slot.name, name=own.array or "t"), where)


def _room_for(slot: Slot, value: Node) -> str:
    """Say how a slot and its new value come together."""
    own = phrase("its rank", name=slot.name, rank=repr(value.rank.word))
    if value.rank.apart:
        return own if value.rank in {Rank.LEFT, Rank.RIGHT} else phrase("transpose")
    if slot.rank.apart:
        return phrase("no rank", name=slot.name)
    if value.rank <= Rank.TENSOR:
        return (phrase("over all or") if slot.rank is Rank.GLOBAL else "") + own
    axis = {Rank.ROW: ", axis=1", Rank.COLUMN: ", axis=0"}.get(slot.rank, "") if value.rank is Rank.ELEMENT else ""
    how = phrase("over all") if slot.rank is Rank.GLOBAL else phrase("mean first", axis=axis)
    rank = "tensor" if slot.rank is Rank.HOST else (value.rank | slot.rank).word
    joined = "and" if slot.rank is Rank.HOST else "or"
    return phrase("reduced", how=how, joined=joined, name=slot.name, rank=repr(rank))


def _point(bound: _Bound, theta: Symbol, end: Symbol, g: Node) -> Node:
    """Trace `evaluate_at`, whose arguments are any of its part's, by name, and where the step ends."""
    function, signature = bound.part.evaluate_at, bound.part.signature
    assert function is not None
    parameter, gradient, *_ = signature.arrays
    known = {parameter: theta, f"new_{parameter}": end, signature.first: bound.first, **bound.arrays, **bound.keywords}
    code = function.__code__
    split = code.co_argcount
    names = code.co_varnames[: split + code.co_kwonlyargcount]
    missing = [name for name in names if name not in known]
    if missing:
        words = (
            told("point asks gradient", name=gradient, first=signature.first, parameter=parameter)
            if missing[0] == gradient
            else told("point asks", name=missing[0], rule=bound.part.name, known=", ".join(known))
        )
        raise refusal(*words, function)
    value = call(function, [known[name] for name in names[:split]], {name: known[name] for name in names[split:]})
    point = lift(value, theta.recorder)
    _refuse_point(bound.part, point, end, g)
    return point


def _refuse_point(part: Part, point: Node, end: Symbol, g: Node) -> None:
    """Refuse a point that is not known before the step, or not the same when it is asked for again."""
    below, name, signature, function = topological([point]), part.name, part.signature, part.evaluate_at
    assert function is not None
    if g in below and point is not end.node:
        words = told("point of the end", name=name, parameter=signature.arrays[0], first=signature.first)
        raise refusal(*words, function)
    if any(node.kind == "chance" for node in below) or hyper_node(LOSS.name) in below:
        raise refusal(*told("point drawn", name=name), function)
    shared = [node.array for node in below if node.array and node.rank is Rank.GLOBAL]
    if shared and point is not end.node:
        raise refusal(*told("point of all", name=name, shared=shared[0]), function)


def trace(name: str, parts: Sequence[Part]) -> Graph:
    """Return the graph of a chain of transforms around a rule (or of one transform alone)."""
    functions = [function for part in parts for function in (part.evaluate_at, part.function) if function is not None]

    def read_again(recorder: Recorder) -> Graph:
        with reading(recorder):
            graph = _read(name, parts, recorder)
        given = (LOSS,) if hyper_node(LOSS.name) in graph.nodes else ()
        return verify(replace(graph, hypers=(*graph.hypers, *given)))

    return pure(name, functions, read_again)


def _read(name: str, parts: Sequence[Part], recorder: Recorder) -> Graph:
    last, taken = _first_claims(parts)
    parameter, gradient, *_ = last.signature.arrays
    # The rule keeps its own names; transforms give way.
    ending = _bind(last, taken, recorder)
    bounds = [ending if part is last else _bind(part, taken, recorder) for part in parts]
    start = seen = theta = Symbol(read(parameter), recorder)
    g, first = Symbol(read(gradient), recorder), Symbol(read(last.signature.first), recorder)
    new, gauges = dict[str, Node](), dict[str, Node]()
    gradients: dict[Node, str] = {}
    for bound in bounds:
        recorder.gauges.clear()
        given = (seen, g, theta) if bound.part.moves == "update" else (theta, g)
        value, *slots = _run(bound, given, first, recorder)
        gauges |= {_free(name, bound.part.name, gauges): node for name, node in recorder.gauges.items()}
        new |= {slot.name: node for slot, node in zip(bound.slots, slots, strict=True)}
        seen = theta if bound is ending else seen
        if bound.part.moves == "gradient":
            first, g = _alike(first, g.node, value), Symbol(value, recorder)
            if value.rank is Rank.ELEMENT and value.inputs:
                gradients[value] = bound.part.name
        else:
            theta = Symbol(value, recorder)
    slots = [slot for bound in (ending, *(one for one in bounds if one is not ending)) for slot in bound.slots]
    graph = Graph(
        name=name,
        parameter=parameter,
        gradient=gradient,
        slots=tuple(slots),
        hypers=tuple(declared for declared in taken.values() if isinstance(declared, Hyper)),
        new_parameter=(g if last.moves == "gradient" else theta).node,
        new_slots=tuple(new[slot.name] for slot in slots),
        gradients=gradients,
        counts_steps=any(part.signature.wants_step for part in parts),
        origins=recorder.origins,
        gauges=tuple(map(gauge, gauges, gauges.values())),
    )
    return _pointed(graph, bounds, start, theta, read(last.signature.first))


def _alike(first: Symbol, before: Node, after: Node) -> Symbol:
    """Return the gradient at the parameter itself after a transform: in the same unit and of the same sign as g."""
    unit = None if after is before else factor(after, before)
    if unit is None or unit.rank is not Rank.HOST:
        return first
    return Symbol(make("mul", unit, first.node), first.recorder)


def _pointed(graph: Graph, bounds: Sequence[_Bound], theta: Symbol, end: Symbol, first: Node) -> Graph:
    """Add where the gradient is taken, and the gradient at the parameter itself, if the formula asks for it."""
    bound = next((one for one in bounds if one.part.evaluate_at is not None), None)
    asking = next((one for one in bounds if one.part.signature.wants_first), None)
    if bound is None and asking is not None:
        parameter, gradient, *_ = asking.part.signature.arrays
        words = told("no point", first=asking.part.signature.first, gradient=gradient, parameter=parameter)
        raise refusal(*words, asking.part.function)
    if bound is None:
        return graph
    graph = replace(graph, evaluate_at=_point(bound, theta, end, read(graph.gradient)))
    if first not in graph.nodes:
        return graph
    if graph.implicit:
        own = told("implicit twice", name=bound.part.name, parameter=graph.parameter, first=bound.part.signature.first)
        raise refusal(*own, bound.part.evaluate_at)
    graph = replace(graph, first=first.array)
    if first not in topological([graph.new_parameter, *graph.new_slots, *graph.watched]):
        return graph
    return replace(graph, slots=(*graph.slots, Slot(first.array, wide=True)), new_slots=(*graph.new_slots, first))
