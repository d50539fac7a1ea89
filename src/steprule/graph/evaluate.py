"""The interpreter: float64, one node at a time, no cleverness. It defines what every rule means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .chance import draw, key, parameter_seed
from .graph import Graph
from .node import Node, Rank, topological
from .ops import OPS

Array = NDArray[np.float64]


def _leaf(node: Node, arrays: Mapping[str, Any], numbers: Mapping[str, float]) -> Array:
    if node.op == "const":
        value: Any = node.attr
    elif node.array:
        value = arrays[node.array]
    else:
        value = numbers["t" if node.op == "step" else str(node.attr)]
    return np.asarray(value, dtype=np.float64)


def evaluate(
    graph: Graph, arrays: Sequence[Mapping[str, Any]], numbers: Sequence[Mapping[str, float]], *, seed: int = 0
) -> list[dict[str, Array]]:
    """Run one step of a rule in float64 on all tensors of an optimiser.

    `arrays[i]` holds tensor i's parameter, gradient and slots by name, in the shapes that their ranks have;
    `numbers[i]` its hyperparameters and, under `t`, its step count. The answer holds the new parameter and slots.
    What is drawn for an element depends on the seed, on i, t and the element's place, row by row.
    """
    everything, shapes = range(len(arrays)), [np.shape(item[graph.parameter]) for item in arrays]
    values = _values(graph.nodes, arrays, numbers, shapes, seed)
    return [
        {name: _kept(values[node][i], graph.ranks[name], shapes[i]) for name, node in graph.outputs} for i in everything
    ]


def evaluate_gauges(
    graph: Graph, arrays: Sequence[Mapping[str, Any]], numbers: Sequence[Mapping[str, float]], *, seed: int = 0
) -> list[dict[str, float]]:
    """Return the gauges of a graph, as they are written, for every tensor of one step."""
    shapes = [np.shape(item[graph.parameter]) for item in arrays]
    values = _values(topological([item.formula for item in graph.gauges]), arrays, numbers, shapes, seed)
    return [{item.name: float(values[item.formula][i].item()) for item in graph.gauges} for i in range(len(arrays))]


def _values(
    nodes: Sequence[Node],
    arrays: Sequence[Mapping[str, Any]],
    numbers: Sequence[Mapping[str, float]],
    shapes: Sequence[tuple[int, ...]],
    seed: int,
) -> dict[Node, list[Array]]:
    """Compute nodes, of which inputs come first, on all tensors."""
    everything = range(len(arrays))
    values: dict[Node, list[Array]] = {}
    with np.errstate(all="ignore"):
        for node in nodes:
            meaning = OPS[node.op].meaning
            if node.kind == "size":
                values[node] = [np.float64(meaning(shape)) for shape in shapes]  # type: ignore[misc]
            elif node.kind == "leaf":
                values[node] = [_beside(_leaf(node, arrays[i], numbers[i]), node.rank, shapes[i]) for i in everything]
            elif node.kind == "chance":
                values[node] = [meaning(words(node, shapes[i], numbers[i]["t"], i, seed)) for i in everything]
            elif node.kind == "global":
                parts = [values[node.inputs[0]][i].ravel() for i in everything]
                total = np.asarray(meaning(np.concatenate(parts) if parts else np.zeros(0)))
                values[node] = [total for _ in everything]
            else:
                axis = [] if node.axis is None else [node.axis]
                values[node] = [np.asarray(meaning(*(values[x][i] for x in node.inputs), *axis)) for i in everything]
    return values


def words(node: Node, shape: tuple[int, ...], t: float, parameter: int, seed: int) -> NDArray[np.uint32]:
    """Return the random bits of a whole tensor's elements, seen as a matrix, from which a node's numbers are made."""
    rows, columns = Rank.ELEMENT.view(shape)
    own = key(parameter_seed(np.array([seed], np.uint64), np.array([parameter])), np.array([int(t)]), node.site)
    return np.asarray(draw(0, np.arange(rows * columns).reshape(rows, columns), own), np.uint32)


def _beside(value: Array, rank: Rank, shape: tuple[int, ...]) -> Array:
    """Return an array as it stands beside a tensor that is seen as a matrix."""
    return np.broadcast_to(value, rank.shape(shape)).reshape(rank.view(shape))


def _kept(value: Array, rank: Rank, shape: tuple[int, ...]) -> Array:
    """Return an array as it is kept from step to step."""
    return np.array(np.broadcast_to(value, rank.view(shape)).reshape(rank.shape(shape)))


def evaluate_host(roots: Sequence[Node], numbers: Mapping[str, float]) -> list[np.float64]:
    """Return the values of host-rank nodes: arithmetic on hyperparameters, t and host slots."""
    return [np.float64(value) for value in evaluate_scalars(roots, numbers, {})]


def evaluate_scalars(roots: Sequence[Node], numbers: Mapping[str, Any], known: Mapping[Node, Any]) -> list[Any]:
    """Return the values of scalars above those that are `known`; with arrays of numbers, those of many tensors."""
    values: dict[Node, Any] = dict(known)
    with np.errstate(all="ignore"):
        for node in topological(roots, known):
            if node in known:
                continue
            if node.inputs:
                values[node] = OPS[node.op].meaning(*(values[child] for child in node.inputs))
            else:
                values[node] = _leaf(node, numbers, numbers)[()]
    return [values[root] for root in roots]
