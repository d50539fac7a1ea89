"""The lowered program: everything that a kernel does, and nothing of how it is spelled.

A plan's pass becomes a loop over chunks. In it stand `Load`, `Compute`, `Accumulate` and `Store`, in the order in which
they are done, and `Keep` where a gauge asks what a store has left. Before it stand `Call`s (functions of matrices, on
whole tensors that an earlier loop has stored for them, and a later one loads), after it `Combine` (chunks to tensors
and totals) and `Exchange` (totals shared among batches). Backends run a program: a renderer writes it down in some
language, and `eager` executes it with torch operations.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

from ..errors import GraphError
from ..graph.gauges import offered
from ..graph.graph import Gauge
from ..graph.node import Node, Rank, read, step, topological
from ..graph.ops import OPS
from ..locks import once
from .lines import KeptLines, lines_of
from .schedule import Pass, Plan, kept, late, nearest, walks
from .storage import REMAINDER, Format, Layout, format_of, layout, state_bytes, units_of


@dataclass(frozen=True, slots=True)
class Array:
    """An array in memory: its name, its format, and where it varies; of `scratch` nothing is kept after the step."""

    name: str
    format: Format
    rank: Rank = Rank.ELEMENT
    scratch: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """Read one element of an array, widened to the type that is computed in: the value of a node."""

    array: Array
    node: Node


@dataclass(frozen=True, slots=True)
class Compute:
    """Compute the node of an element from its inputs."""

    node: Node


@dataclass(frozen=True, slots=True)
class Accumulate:
    """Let an element join a reduction: the `place`-th number of a chunk."""

    node: Node
    place: int

    @property
    def joins(self) -> object:
        """What joins, and how: the same for reductions that differ in how they finish alone."""
        own = self.node.reducer
        return self.node.axis, own.init, own.combine, own.each, self.node.inputs[0]


@dataclass(frozen=True, slots=True)
class Store:
    """Write a value into an array, rounded as its format and the layout say.

    The `draw` is the array's number among those that round stochastically, −1 if it does not.
    """

    array: Array
    node: Node
    draw: int = -1


@dataclass(frozen=True, slots=True)
class Keep:
    """Take the value of an element as a store leaves it, rounded and widened again."""

    node: Node
    store: Store


@dataclass(frozen=True, slots=True)
class Combine:
    """Reduce what chunks have left, in their order, to a number a row, column or tensor, or to a total.

    What is reduced of numbers that are one a row or column has left nothing in chunks.
    """

    node: Node
    place: int


@dataclass(frozen=True, slots=True)
class Exchange:
    """Share a total among all batches of the step before anything uses it."""

    node: Node
    place: int


@dataclass(frozen=True, slots=True)
class Call:
    """Compute a value on whole tensors, between two loops.

    The sources hold those of its inputs that are elements; the target is where a later loop finds it, if one does. A
    target may be what was the source of another call before the same loop.
    """

    node: Node
    sources: tuple[Array, ...]
    target: Array | None


@dataclass(frozen=True, slots=True)
class Loop:
    """One walk over memory: what is called first, scalars that its elements use, what it does to one, what follows."""

    index: int
    scalars: tuple[Node, ...]
    body: tuple[Load | Compute | Accumulate | Store | Keep, ...]
    after: tuple[Combine | Exchange, ...]
    calls: tuple[Call, ...] = ()

    @property
    def loads(self) -> tuple[Load, ...]:
        """The arrays it reads."""
        return tuple(part for part in self.body if isinstance(part, Load))

    @property
    def stores(self) -> tuple[Store, ...]:
        """The arrays it writes."""
        return tuple(part for part in self.body if isinstance(part, Store))

    @property
    def accumulated(self) -> tuple[Accumulate, ...]:
        """The reductions it makes parts of."""
        return tuple(part for part in self.body if isinstance(part, Accumulate))

    @property
    def numbers(self) -> tuple[Node, ...]:
        """Its scalars that are one number a tensor, or fewer."""
        return tuple(node for node in self.scalars if node.rank <= Rank.TENSOR)

    @property
    def lines(self) -> tuple[Node, ...]:
        """Its scalars that are one number a row or column."""
        return tuple(node for node in self.scalars if Rank.TENSOR < node.rank < Rank.ELEMENT)

    def joining(self, chosen: Container[Accumulate]) -> Loop:
        """Return the loop with some of its reductions only."""
        return replace(self, body=tuple(p for p in self.body if not isinstance(p, Accumulate) or p in chosen))

    @property
    def arrays(self) -> tuple[Array, ...]:
        """Every array it touches, once."""
        return tuple(dict.fromkeys(part.array for part in (*self.loads, *self.stores)))

    @property
    def rounded(self) -> int:
        """The number of arrays that it rounds stochastically."""
        return sum(store.draw >= 0 for store in self.stores)

    @property
    def drawn(self) -> tuple[Node, ...]:
        """The random numbers of the rule that it computes."""
        return tuple(part.node for part in self.body if isinstance(part, Compute) and part.node.kind == "chance")

    @property
    def bytes_per_parameter(self) -> float:
        """Bytes moved a parameter: every array once a load and once a store."""
        return sum(part.array.format.bytes for part in (*self.loads, *self.stores))


@dataclass(frozen=True)
class Program:
    """A plan for arrays of known formats: its loops in order, then the slots that they do not write.

    Those are `finish`, of fewer numbers than elements, `globals`, of one for all, and `matrices` of other shapes.
    """

    plan: Plan
    layout: Layout
    arrays: tuple[Array, ...]
    """The parameter, the gradient, then every slot that lives in memory."""
    host: tuple[Node, ...]
    """What is computed once a step: the plan's host values, and the step count if something is drawn."""
    loops: tuple[Loop, ...]
    finish: tuple[Store, ...]
    globals: tuple[Store, ...] = ()
    matrices: tuple[Store, ...] = ()
    scratch: tuple[Array, ...] = ()
    """What loops and calls hand to each other."""

    @once
    def tensors(self) -> tuple[str, ...]:
        """The names of the tensors that a kernel points at: arrays, then what lies beside the parameter and slots."""
        extra = (REMAINDER,) if self.layout.parameter.beside else ()
        return (*(array.name for array in self.arrays), *extra, *map(units_of, self.grouped))

    @once
    def grouped(self) -> tuple[str, ...]:
        """The names of the arrays that are kept in units of groups."""
        return tuple(array.name for array in self.arrays if array.format.grouped)

    @once
    def lined(self) -> bool:
        """Whether a kernel must know how many rows and columns a tensor has."""
        return bool(self.plan.axes) or any(node.kind == "size" for node in self.plan.graph.nodes)

    @property
    def placed(self) -> bool:
        """Whether a kernel must know where in a whole tensor it is: for draws, or for sizes."""
        return self.draws or self.lined

    @once
    def laid(self) -> KeptLines:
        """What it keeps of rows and columns during a step."""
        return lines_of(self)

    @once
    def gauges(self) -> tuple[Gauge, ...]:
        """The gauges that a step tells: those asked for, and those whose reductions it makes anyway."""
        return offered(self.plan.graph, {part.node for loop in self.loops for part in loop.after})

    @property
    def draws(self) -> bool:
        """Whether something is drawn: for the rule, or to round what is stored."""
        return self.layout.random or bool(self.plan.graph.draws)

    @property
    def guard(self) -> int:
        """The place of the reduction that is NaN when a gradient is not finite; −1 if nobody asks."""
        return -1 if self.plan.guard is None else self.plan.reductions.index(self.plan.guard)

    @property
    def bytes_per_parameter(self) -> float:
        """Bytes moved a parameter and step."""
        return sum(loop.bytes_per_parameter for loop in self.loops)

    @property
    def scratch_bytes_per_parameter(self) -> float:
        """Bytes a parameter that loops and calls hand to each other, besides what calls need while they run."""
        return sum(array.format.bytes for array in self.scratch)

    @property
    def state_bytes_per_parameter(self) -> float:
        """Bytes of state kept a parameter."""
        return state_bytes(self.plan.graph, self.layout)


def _rooms(plan: Plan, real: str) -> dict[Node, Array]:
    """Give what loops and calls hand to each other arrays; no slot has such a name.

    What calls give may lie where lay what they alone were taken of. It has 16 bits where they compute in no more.
    """
    rooms, used = dict[Node, Array](), {node for item in plan.passes for node in item.results}
    calls = [(item.index, node, child) for item in plan.passes for node in item.calls for child in kept(node)]
    users = {child: [node for _, node, other in calls if other is child] for _, _, child in calls}
    last = {child: index for index, _, child in calls}
    numbers = count(1)
    for item in plan.passes:
        over = [rooms[node] for node in last if last[node] == item.index]
        for node in (*(node for node in item.calls if node in used), *item.keeps):
            half = real != "float64" and all(OPS[user.op].half for user in users.get(node, [node]))
            form = format_of("bfloat16" if half else real)
            free = [array for array in over if node.whole and array.format is form]
            over = [array for array in over if array not in free[:1]]
            rooms[node] = free[0] if free else Array(f"scratch {next(numbers)}", form, scratch=True)
    return rooms


def _loop(item: Pass, plan: Plan, arrays: dict[str, Array], rooms: Mapping[Node, Array], drawn: frozenset[str]) -> Loop:
    places = {node: place for place, node in enumerate(plan.reductions)}
    random = [name for name, _ in item.writes if name in drawn]
    stores = [Store(arrays[name], node, random.index(name) if name in random else -1) for name, node in item.writes]
    asking = late(plan.graph)
    early = [node for node in item.reductions if node not in asking]
    told = [node for node in item.reductions if node in asking and _tells(node, stores, plan.graph.parameter)]
    asked = topological([node.inputs[0] for node in told])
    ends = [*(node.inputs[0] for node in (*early, *told)), *item.keeps]
    used = set(topological([*(node for _, node in item.writes), *ends]))
    body = [
        *(Load(arrays[name], read(name)) for name in item.reads),
        *(Load(rooms[node], node) for node in item.results),
        *(Compute(node) for node in item.elements if node in used and node not in asking),
        *(Accumulate(node, places[node]) for node in early if walks(node)),
        *(Store(rooms[node], node) for node in item.keeps),
        *(part for store in stores for part in (store, *_keeps(store, asked))),
        *(Compute(node) for node in item.elements if node in used and node in asking and node.kind != "stored"),
        *(Accumulate(node, places[node]) for node in told),
    ]
    after = [
        *(Combine(node, places[node]) for node in (*early, *told)),
        *(Exchange(node, places[node]) for node in early if node.kind == "global"),
    ]
    calls = (Call(node, tuple(rooms[child] for child in kept(node)), rooms.get(node)) for node in item.calls)
    return Loop(item.index, item.scalars, tuple(body), tuple(after), tuple(calls))


def _tells(node: Node, stores: Sequence[Store], parameter: str) -> bool:
    """Whether a reduction asks of arrays that are stored what it can learn: of slots, only narrow ones round."""
    asked = {str(inner.attr) for inner in topological([node]) if inner.kind == "stored"}
    stored = {store.array.name: store.array for store in stores}
    return all(name in stored and (name == parameter or stored[name].format.narrow) for name in asked)


def _keeps(store: Store, asked: Sequence[Node]) -> list[Keep]:
    """List the instructions that follow a store, for those who ask what it has left."""
    return [Keep(node, store) for node in asked if node.kind == "stored" and node.attr == store.array.name]


def lower(plan: Plan, layout: Layout) -> Program:
    """Return the program of a plan for arrays that lie in memory as a layout says, checked."""
    graph = plan.graph
    parameter, gradient = layout.parameter, format_of(layout.parameter.dtype)
    arrays = {graph.parameter: Array(graph.parameter, parameter), graph.gradient: Array(graph.gradient, gradient)}
    arrays |= {name: Array(name, form, graph.ranks[name]) for name, form in layout.slots}
    rooms = _rooms(plan, layout.real)
    loops = tuple(_loop(item, plan, arrays, rooms, layout.drawn) for item in plan.passes)
    finish, ones, matrices = (
        tuple(Store(arrays[name], node) for name, node in own)
        for own in (plan.tensor_writes, plan.global_writes, plan.matrix_writes)
    )
    t = (step(),) if (layout.random or graph.draws) and step() not in plan.host else ()
    scratch = tuple(dict.fromkeys(rooms.values()))
    return verify(Program(plan, layout, tuple(arrays.values()), plan.host + t, loops, finish, ones, matrices, scratch))


def _known(loop: Loop, held: Mapping[Array, Node]) -> Iterator[str]:
    """Say what a loop uses before it knows it."""
    known = set(loop.scalars)
    for part in loop.body:
        needs = part.node.inputs if isinstance(part, Compute | Accumulate | Keep) else ()
        needs = (part.node,) if isinstance(part, Store) else needs
        for node in needs:
            if node not in known:
                yield f"loop {loop.index} uses {node!r} before it is known"
        if isinstance(part, Load | Compute | Keep):
            known.add(part.node)
        if isinstance(part, Load) and part.array.scratch and held.get(part.array) is not part.node:
            yield f"loop {loop.index} loads {part.node!r} before it has ended"


def _called(loop: Loop, ended: set[Node], held: dict[Array, Node]) -> Iterator[str]:
    """Say what calls are taken of before it is there; note what they leave."""
    for part in loop.calls:
        if any(held.get(array) is not node for array, node in zip(part.sources, kept(part.node), strict=True)):
            yield f"`{part.node.op}` is called before loop {loop.index}, and none has stored its argument"
        given = [node for node in part.node.inputs if node not in kept(part.node)]
        yield from _early(f"a call before loop {loop.index}", given, ended)
        ended.add(part.node)
    held |= {part.target: part.node for part in loop.calls if part.target is not None}


def _early(user: str, roots: Sequence[Node], ended: set[Node]) -> Iterator[str]:
    """Say which reductions something uses before they have ended."""
    yield from (f"{user} uses {node!r} before it has ended" for node in nearest(roots) if node not in ended)


def _flaws(program: Program) -> Iterator[str]:
    """Say what is wrong with a program."""
    ended, held = set[Node](), dict[Array, Node]()
    if program.draws and not program.plan.graph.uses_step:
        yield "it draws anew at every step, and nobody counts steps"
    for loop in program.loops:
        yield from _called(loop, ended, held)
        yield from _known(loop, held)
        yield from _early(f"loop {loop.index}", loop.scalars, ended)
        if loop is not program.loops[-1] and not all(store.array.scratch for store in loop.stores):
            yield f"loop {loop.index} stores, but only the last loop may"
        if len({store.array for store in loop.stores}) < len(loop.stores):
            yield f"loop {loop.index} stores an array twice"
        made = [part.place for part in loop.accumulated]
        combined = [part.place for part in loop.after if isinstance(part, Combine) and walks(part.node)]
        shared = [part.place for part in loop.after if isinstance(part, Exchange) and walks(part.node)]
        totals = [part.place for part in loop.accumulated if part.node.kind == "global"]
        if made != combined or shared != totals:
            yield f"loop {loop.index} accumulates {made}, combines {combined} and exchanges {shared}"
        for part in loop.after:
            if not walks(part.node):
                yield from _early(f"a reduction after loop {loop.index}", part.node.inputs, ended)
            ended.add(part.node)
        held |= {store.array: store.node for store in loop.stores if store.array.scratch}
    yield from _early("a slot", [one.node for one in (*program.finish, *program.globals, *program.matrices)], ended)


def verify(program: Program) -> Program:
    """Return the program if nothing is used before it is known, and only the last loop stores."""
    for flaw in _flaws(program):
        raise GraphError(f"{program.plan.graph.name}: {flaw}")
    return program


def lowered(plan: Plan, dtype: str = "float32") -> Program:
    """Return the program of a plan for parameters of a dtype, with slots as they are unless somebody asks otherwise."""
    return lower(plan, layout(plan.graph, dtype))
