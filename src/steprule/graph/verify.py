"""The laws of a graph, checked at every door that it passes through."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from ..errors import GraphError
from .graph import Graph
from .node import Node, Rank, product, told_apart
from .ops import OPS


def _declarations(graph: Graph) -> Iterator[tuple[Node, str]]:
    for name in sorted({name for name in graph.names if graph.names.count(name) > 1}):
        yield graph.new_parameter, f"`{name}` is declared twice"
    if len(graph.new_slots) != len(graph.slots):
        yield graph.new_parameter, f"{len(graph.slots)} slots are declared, but {len(graph.new_slots)} have new values"


def _ops_and_arity(graph: Graph) -> Iterator[tuple[Node, str]]:
    for node in graph.nodes:
        if node.op not in OPS:
            yield node, f"`{node.op}` is no operation of the table"
        elif len(node.inputs) != OPS[node.op].arity:
            yield node, f"`{node.op}` takes {OPS[node.op].arity} inputs, not {len(node.inputs)}"


def _reductions(graph: Graph) -> Iterator[tuple[Node, str]]:
    for node in graph.nodes:
        inner = node.inputs[0].rank if node.inputs else Rank.HOST
        if isinstance(node.attr, Rank) and (node.kind != "tensor" or node.attr not in {Rank.ROW, Rank.COLUMN}):
            yield node, f"`{node.op}` cannot give one number a {node.attr.word}"
        elif node.kind == "matrix" and product(node.op, node.inputs) is None:
            yield node, f"`{node.op}` is taken of values that are no matrices of fitting shapes"
        elif node.reduces and inner.apart:
            yield node, f"`{node.op}` is taken of a matrix that has not the parameter's shape"
        elif node.rank not in Rank.__members__.values():
            yield node, f"`{node.op}` puts elements of different shapes beside each other"
        elif node.reduces and inner <= Rank.TENSOR:
            yield node, f"`{node.op}` is taken of a value that does not vary over elements"
        elif node.reduces and not node.rank < inner:
            yield node, f"`{node.op}` gives one number a {node.rank.word}, of one number a {inner.word}"


def _comparisons(graph: Graph) -> Iterator[tuple[Node, str]]:
    for node in graph.nodes:
        for place, child in enumerate(node.inputs):
            if child.truth is not OPS[node.op].asks(place):
                yield node, "a comparison stands outside of conditions, or is missing there"
    for name, node in graph.outputs:
        if node.truth:
            yield node, f"the new `{name}` is a comparison"


def _leaves(graph: Graph) -> Iterator[tuple[Node, str]]:
    hypers = {item.name for item in graph.hypers}
    for node in graph.nodes:
        if node.op == "read" and (not node.array or graph.ranks.get(node.array) is not node.rank):
            yield node, "an array is read that the rule does not declare"
        if node.op == "hyper" and node.attr not in hypers:
            yield node, f"hyperparameter `{node.attr}` is not declared"
        if node.op == "const" and not (isinstance(node.attr, float) and math.isfinite(node.attr)):
            yield node, f"the constant {node.attr!r} is not a finite number"


def _ranks(graph: Graph) -> Iterator[tuple[Node, str]]:
    if not graph.new_parameter.rank <= Rank.ELEMENT:
        yield graph.new_parameter, f"the new `{graph.parameter}` has not its shape"
    for slot, node in zip(graph.slots, graph.new_slots, strict=True):
        if not node.rank <= slot.rank:
            yield node, f"the new `{slot.name}` varies over {node.rank.word}s, its slot over {slot.rank.word}s"
        elif slot.rank is Rank.GLOBAL and (own := told_apart(node)) is not None:
            yield own, f"the new `{slot.name}` is one number for all tensors, made of what each has of its own"


LAWS: tuple[Callable[[Graph], Iterator[tuple[Node, str]]], ...] = (
    _declarations,
    _ops_and_arity,
    _reductions,
    _comparisons,
    _leaves,
    _ranks,
)


def verify(graph: Graph) -> Graph:
    """Return the graph if it obeys every law; raise `GraphError` at the first that it breaks."""
    for law in LAWS:
        for node, complaint in law(graph):
            raise GraphError(f"{graph.name}: {complaint}", where=graph.origins.get(node, repr(node)[:200]))
    return graph
