"""Cut a graph at its reductions: everything between two cuts is one pass over memory.

A reduction of elements that need no earlier reduction may end in pass 0, one of elements that need that in pass 1, and
so on. The last pass writes every output, so nothing is written before all that a reduction does to an element is known.
That is the fewest passes possible: a value that depends on a reduction of all elements cannot be applied to the first
before the last has been read. A reduction that feeds no element, only slots smaller than the parameter, costs no
pass: it may end in the last. Nor does a reduction of numbers that are one a row or column: it ends with those.

A function of matrices is taken between passes, of whole tensors, which a pass before it has kept; so is what has the
shape of a product. A slot of that shape is known before the last pass, too: it may fail, and then nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import RuleError
from ..graph.gauges import recalled
from ..graph.graph import Graph
from ..graph.node import Node, Rank, const, make, read, topological
from ..graph.ops import OPS
from ..graph.show import one_line
from ..graph.simplify import renamed, simplify
from ..locks import once


@dataclass(frozen=True)
class Pass:
    """One walk over memory.

    `scalars` are the values below element rank that its elements use; `elements` the element nodes it computes, inputs
    first; `reductions` those that end with it, inputs first, of elements or of what others give a row or column;
    `writes` the (array, new value) pairs, empty in all but the last pass. `calls` are the values on whole tensors that
    are computed before it, inputs first, and `results` those of them that its elements read. What later calls take of
    elements it keeps.
    """

    index: int
    reads: tuple[str, ...]
    writes: tuple[tuple[str, Node], ...]
    reductions: tuple[Node, ...]
    scalars: tuple[Node, ...]
    elements: tuple[Node, ...]
    calls: tuple[Node, ...] = ()
    results: tuple[Node, ...] = ()
    keeps: tuple[Node, ...] = ()

    @property
    def flops(self) -> int:
        """Arithmetic operations an element, counting a reduction's own."""
        return sum(OPS[node.op].flops for node in (*self.elements, *filter(walks, self.reductions)))


def summary(item: Pass, graph: Graph) -> str:
    """Say in words what a pass does."""
    inner = {child for node in item.calls for child in node.inputs}
    calls = [node for node in item.calls if node not in inner]
    done = [f"after {', '.join(one_line(node, graph) for node in calls)}"] if calls else []
    done += [f"reads {', '.join(item.reads)}"] if item.reads else []
    done += [f"writes {', '.join(name for name, _ in item.writes)}"] if item.writes else []
    gauges, own = _watched_in(item, graph)
    done += [f"ends in {', '.join(one_line(node, graph) for node in own)}"] if own else []
    done += [f"watches {', '.join(gauges)}"] if gauges else []
    done += [f"keeps {', '.join(one_line(node, graph) for node in item.keeps)}"] if item.keeps else []
    return "; ".join(done) or "moves nothing"


def _watched_in(item: Pass, graph: Graph) -> tuple[list[str], list[Node]]:
    """Return the gauges that need reductions which end in a pass, and the reductions that others need."""
    if not graph.gauges:
        return [], list(item.reductions)
    used = set(topological([graph.new_parameter, *graph.new_slots]))
    only = set(item.reductions) & set(topological(graph.watched)) - used
    names = [one.name for one in graph.gauges if only & set(topological([node for _, node in one.parts]))]
    return names, [node for node in item.reductions if node not in only]


@dataclass(frozen=True)
class Plan:
    """A graph and its passes.

    `host` are the values computed once a step, before any pass: those that passes use, and new host slots.
    `tensor_writes` are new values of slots smaller than the parameter, written after the last pass, `global_writes`
    those of slots of one number for all tensors, written last of all and once, and `matrix_writes` those of slots that
    are matrices of another shape.
    """

    graph: Graph
    passes: tuple[Pass, ...]
    host: tuple[Node, ...]
    tensor_writes: tuple[tuple[str, Node], ...]
    host_writes: tuple[tuple[str, Node], ...]
    matrix_writes: tuple[tuple[str, Node], ...] = ()
    guard: Node | None = None
    """The sum that is NaN when a gradient is not finite; it ends in the first pass, before anything is written."""
    global_writes: tuple[tuple[str, Node], ...] = ()

    @once
    def reductions(self) -> tuple[Node, ...]:
        """Every reduction, in the order of the passes that end in it."""
        return tuple(node for item in self.passes for node in item.reductions)

    @once
    def called(self) -> tuple[Node, ...]:
        """Every value that is computed on whole tensors, in order."""
        return tuple(node for item in self.passes for node in item.calls)

    @once
    def only_watched(self) -> frozenset[Node]:
        """Reductions that nothing but gauges waits for."""
        roots = [self.graph.new_parameter, *self.graph.new_slots, *([self.guard] if self.guard is not None else [])]
        return frozenset(self.reductions) - frozenset(topological(roots))

    @once
    def needed(self) -> tuple[Node, ...]:
        """Reductions that something besides gauges waits for."""
        return tuple(node for node in self.reductions if node not in self.only_watched)

    @once
    def awaited(self) -> tuple[Node, ...]:
        """Reductions over all tensors that elements, matrices or host slots wait for, or what is written with these.

        Others only slots smaller than the parameter remember, for the next step.
        """
        roots = [*self.passes[-1].writes, *self.matrix_writes]
        roots += self.tensor_writes if self.host_writes or self.matrix_writes else []
        wanted = set(topological([node for _, node in roots]))
        return tuple(node for node in self.reductions if node.kind == "global" and node in wanted)

    @once
    def apart(self) -> bool:
        """Whether no tensor waits for what is made of all, or on whole ones, and no number for all is written."""
        whole = self.called or self.matrix_writes or self.global_writes
        return not (whole or any(node.kind == "global" for node in self.reductions))

    @once
    def remembered(self) -> bool:
        """Whether a slot smaller than the parameter keeps what all tensors together reduce to, or is one for all."""
        totals = (node.kind == "global" for node in topological([node for _, node in self.tensor_writes]))
        return bool(self.global_writes) or any(totals)

    @once
    def shared(self) -> dict[Node, Node]:
        """Every global reduction in words that all rules have; authors name a gradient as they like."""
        graph, own = self.graph, [node for node in self.reductions if node.kind == "global"]
        words = {read(graph.parameter): read("parameter of"), read(graph.gradient): read("gradient of")}
        return dict(zip(own, renamed(own, words), strict=True))

    @once
    def recalled(self) -> frozenset[str]:
        """Slots smaller than the parameter that gauges ask for, as they were before the step."""
        return recalled(self.graph)

    @once
    def axes(self) -> frozenset[Rank]:
        """ROW and COLUMN, as far as the plan has numbers of them."""
        written = {self.graph.ranks[name] for name, _ in self.tensor_writes}
        return frozenset(({node.rank for node in self.graph.nodes} | written) & {Rank.ROW, Rank.COLUMN})


def ends(node: Node) -> bool:
    """Whether elements that use a node wait for it: it is a reduction, or computed on whole tensors."""
    return node.reduces or node.whole


def kept(node: Node) -> list[Node]:
    """List what passes keep for a node that is computed on whole tensors: its inputs that are elements."""
    return [child for child in node.inputs if child.rank is Rank.ELEMENT and not child.whole]


def late(graph: Graph) -> set[Node]:
    """Return what must be in the last pass, which alone stores, because it asks what arrays hold then."""
    found = set[Node]()
    for node in topological(graph.watched):
        if node.kind == "stored" or any(child in found for child in node.inputs):
            found.add(node)
    return found


def walks(node: Node) -> bool:
    """Whether a node that `ends` a pass is of elements, which must be walked over."""
    return node.inputs[0].rank is Rank.ELEMENT


def walked(node: Node) -> list[Node]:
    """List the elements that are walked over for a node that `ends` a pass."""
    return kept(node) if node.whole else [node.inputs[0]]


def _levels(roots: list[Node]) -> dict[Node, int]:
    """Map each node to the pass in which its value can first be known to elements.

    A total is shared between batches when its pass has ended, so what is reduced of it ends in a later one.
    """
    level: dict[Node, int] = {}
    totals = set[Node]()
    for node in topological(roots):
        base = max((level[child] for child in node.inputs), default=0)
        shared = any(child in totals and level[child] == base for child in node.inputs)
        if node.whole:  # it is computed before the pass of its level
            level[node] = max([base, *(level[child] + 1 for child in kept(node))])
        else:
            level[node] = max(base + (walks(node) or shared), 1) if node.reduces else base
        if node.kind == "global" or (shared and not node.reduces):
            totals.add(node)
    return level


def _cone(roots: list[Node]) -> tuple[list[Node], list[Node]]:
    """Split what roots need in one pass into element nodes to compute and scalars to be given.

    A function of matrices is an element node that has been computed between passes.
    """
    elements: dict[Node, None] = {}
    scalars: dict[Node, None] = {}
    stack = [(root, False) for root in reversed(roots)]
    while stack:
        node, expanded = stack.pop()
        if node.rank is not Rank.ELEMENT:
            scalars[node] = None
        elif expanded:
            elements[node] = None
        elif node not in elements:
            stack.append((node, True))
            stack.extend((child, False) for child in (() if ends(node) else reversed(node.inputs)))
    return list(elements), list(scalars)


def _make_pass(
    index: int, reductions: list[Node], calls: list[Node], keeps: list[Node], writes: list[tuple[str, Node]]
) -> Pass:
    roots = [node.inputs[0] for node in reductions if walks(node)] + keeps + [node for _, node in writes]
    elements, scalars = _cone(roots)
    reads = tuple(node.array for node in elements if node.array)
    computed = tuple(node for node in elements if not (node.array or ends(node)))
    results = tuple(node for node in elements if ends(node))
    return Pass(index, reads, tuple(writes), tuple(reductions), tuple(scalars), computed, tuple(calls), results,
                tuple(keeps))  # fmt: skip


def nearest(roots: Sequence[Node]) -> list[Node]:
    """List what `ends` a pass and roots use themselves, not through another."""
    found = {node for node in topological(roots) if ends(node)}
    return [node for node in topological(roots, found) if node in found]


def _refuse_late(graph: Graph, level: dict[Node, int], last: int) -> None:
    """Refuse a gauge that would need a pass of its own."""
    for item in graph.gauges:
        if any(level[node] - 1 > last for _, node in item.parts):
            raise RuleError(
                f"the gauge {item.name!r} of `{graph.name}` needs one more walk over memory than the step",
                where=graph.origins.get(item.formula, ""),
                fix="watch what does not wait for a reduction of new values, e.g. norm(new_theta) rather than "
                    "norm(new_theta - mean(new_theta))",
            )  # fmt: skip


def _place(
    elements: list[Node], tensors: list[Node], matrices: list[Node], guard: Node | None, graph: Graph
) -> tuple[list[list[Node]], list[list[Node]]]:
    """List what ends in each pass, and what is called before it: as few passes as new values need.

    A reduction that may end in several ends where it makes the fewest arrays be read. A global one ends as early as it
    can: in the same pass of every plan that shares it. Gauges ask for no pass.
    """
    roots = [*elements, *tensors, *matrices, *([guard] if guard is not None else []), *graph.watched]
    level = _levels(roots)
    last = max([int(guard is not None), *(level[n] for n in (*elements, *matrices)), *(level[n] - 1 for n in tensors)])
    _refuse_late(graph, level, last)
    asking = late(graph)
    ending = [node for node in topological(roots) if ends(node)]
    reads = {node: {leaf for leaf in _cone(walked(node))[0] if leaf.array} for node in ending}
    read: list[set[Node]] = [set() for _ in range(last + 1)]
    read[last] = {leaf for leaf in _cone(elements)[0] if leaf.array}

    def placed(choose: Callable[[Node, range], int]) -> dict[Node, int]:
        due = dict.fromkeys(nearest([*tensors, *graph.watched]), last)
        due |= dict.fromkeys(nearest([*elements, *matrices]), last - 1)
        chosen: dict[Node, int] = {}
        for node in reversed(ending):  # users first
            early = level[node] - 1
            fixed = node is guard or node.kind == "global" or node.whole
            chosen[node] = last if node in asking else early if fixed else choose(node, range(early, due[node] + 1))
            for child in node.inputs:
                by = chosen[node] - (child in kept(node) if node.whole else walks(node))
                due |= {other: min(due.get(other, last), by) for other in nearest([child])}
        return chosen

    for node, index in placed(lambda _, allowed: allowed[-1]).items():
        read[index] |= reads[node] if index == level[node] - 1 else set()
    told = set(topological([*elements, *tensors, *matrices]))
    done = {(node.reducer, node.inputs) for node in ending if node.kind == "global"}

    def cheapest(node: Node, allowed: range) -> int:
        # Beside others gauges are added up more slowly, unless they are what is added up there anyhow.
        first = guard is not None or node in told or (node.reducer, node.inputs) in done
        return min(allowed if first else reversed(allowed), key=lambda index: len(reads[node] - read[index]))

    chosen = placed(cheapest)
    passes = range(last + 1)
    return ([[node for node in ending if node.reduces and chosen[node] == index] for index in passes],
            [[node for node in ending if node.whole and level[node] == index] for index in passes])  # fmt: skip


def _host_values(
    passes: tuple[Pass, ...], tensor_writes: list[tuple[str, Node]], host_writes: list[tuple[str, Node]]
) -> list[Node]:
    """List the host-rank numbers that something uses or a slot becomes; comparisons are made where used."""
    wanted: dict[Node, None] = {}
    scalars = [node for item in passes for node in item.scalars] + [node for _, node in tensor_writes]
    small = [node.inputs[0] for item in passes for node in item.reductions if not walks(node)]
    calls = [node for item in passes for node in item.calls]
    for node in topological([*scalars, *small, *calls]):
        inputs = node.inputs if node.rank > Rank.HOST or node.truth else ()
        for child in (*((node,) if node in scalars else ()), *inputs):
            if child.rank is Rank.HOST and child.op != "const" and not child.truth:
                wanted[child] = None
    return list(wanted | dict.fromkeys(node for _, node in host_writes))


def schedule(graph: Graph, *, guarded: bool = False, literal: bool = False) -> Plan:
    """Return the plan of a graph, simplified and cut into the fewest passes.

    A guarded plan also finds out, in its first pass, whether every gradient is finite. A literal one is of the graph as
    it is written, and so may take more passes.
    """
    graph = graph if literal else simplify(graph)
    guard = make("global_sum", make("mul", const(0), read(graph.gradient))) if guarded else None
    changed = [(name, node) for name, node in graph.outputs if node.array != name]
    writes = [(name, node) for name, node in changed if graph.ranks[name] is Rank.ELEMENT]
    tensor_writes = [(name, node) for name, node in changed if Rank.GLOBAL < graph.ranks[name] < Rank.ELEMENT]
    global_writes = [(name, node) for name, node in changed if graph.ranks[name] is Rank.GLOBAL]
    matrix_writes = [(name, node) for name, node in changed if graph.ranks[name].apart]
    host_writes = [(name, node) for name, node in changed if graph.ranks[name] is Rank.HOST]
    small = [*tensor_writes, *global_writes]
    values = [[node for _, node in own] for own in (writes, small, matrix_writes)]
    ending, calls = _place(values[0], values[1], values[2], guard, graph)
    keeps, last = _keeping(calls), len(ending) - 1
    passes = [
        _make_pass(index, nodes, calls[index], keeps[index], writes if index == last else [])
        for index, nodes in enumerate(ending)
    ]
    host = _host_values(tuple(passes), [*small, *matrix_writes], host_writes)
    return Plan(
        *(graph, tuple(passes), tuple(host), tuple(tensor_writes), tuple(host_writes), tuple(matrix_writes), guard),
        global_writes=tuple(global_writes),
    )


def _keeping(calls: list[list[Node]]) -> list[list[Node]]:
    """List what each pass keeps for later calls, each value once, in the pass before the first of them."""
    found = dict[Node, int]()
    for index, nodes in enumerate(calls):
        for node in nodes:
            for child in kept(node):
                found.setdefault(child, index - 1)
    return [[node for node, own in found.items() if own == index] for index in range(len(calls))]
