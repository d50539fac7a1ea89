"""Node, the only kind of expression: frozen and interned, so that equal formulas are one object."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Container, Iterable
from dataclasses import dataclass
from enum import IntEnum

from ..locks import lock
from .ops import OPS, Kind, Reducer


class Rank(IntEnum):
    """Where a value varies; the whole type system."""

    HOST = 0
    GLOBAL = 1
    TENSOR = 2
    ELEMENT = 3


Attr = float | str | tuple[str, Rank] | None


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True, repr=False)
class Node:
    """One operation on earlier nodes; make it with `make` or the leaf functions, never directly.

    `attr` is a constant's value, a hyperparameter's name, or the (name, rank) of an array that is
    read. `key` is a digest of the structure: equal in every process, so orders built on it are too.
    """

    op: str
    inputs: tuple[Node, ...]
    attr: Attr
    rank: Rank
    key: str

    @property
    def kind(self) -> Kind:
        """The kind of the operation, as its row has it."""
        return OPS[self.op].kind

    @property
    def reduces(self) -> bool:
        """Whether it makes one number of many elements."""
        return OPS[self.op].reducer is not None

    @property
    def reducer(self) -> Reducer:
        """How it does that, if it `reduces`."""
        return OPS[self.op].reducer  # type: ignore[return-value]

    def __repr__(self) -> str:
        return _spell(self, 4)


def _spell(node: Node, depth: int) -> str:
    """Spell a node down to a depth: formulas share their parts, so spelled in full they may have no end."""
    if not node.inputs:
        return f"{node.op}({node.attr!r})"
    inside = ", ".join(_spell(child, depth - 1) for child in node.inputs) if depth else "…"
    return f"{node.op}({inside})"


_interned: weakref.WeakValueDictionary[str, Node] = weakref.WeakValueDictionary()
_lock = lock()


def _rank_of(op: str, inputs: tuple[Node, ...], attr: Attr) -> Rank:
    if op == "read" and isinstance(attr, tuple):
        return attr[1]
    kind = OPS[op].kind
    if kind == "tensor":
        return Rank.TENSOR
    if kind == "global":
        return Rank.GLOBAL
    return max((node.rank for node in inputs), default=Rank.HOST)


def make(op: str, *inputs: Node, attr: Attr = None) -> Node:
    """Return the one node with this operation, inputs and attribute."""
    spelled = attr.hex() if isinstance(attr, float) else repr(attr)
    text = "|".join((op, spelled, *(node.key for node in inputs)))
    key = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    with _lock:
        node = _interned.get(key)
        if node is None:
            node = Node(op, inputs, attr, _rank_of(op, inputs, attr), key)
            _interned[key] = node
        return node


def const(value: float) -> Node:
    """Return the node of a number."""
    return make("const", attr=float(value))


def hyper(name: str) -> Node:
    """Return the node of a hyperparameter, read from the param group at every step."""
    return make("hyper", attr=name)


def step() -> Node:
    """Return the node of t, the step count, from 1."""
    return make("step")


def read(name: str, rank: Rank = Rank.ELEMENT) -> Node:
    """Return the node that reads an array: the parameter, the gradient, or a state slot."""
    return make("read", attr=(name, rank))


def topological(roots: Iterable[Node], leaves: Container[Node] = ()) -> list[Node]:
    """List every node the roots need, inputs before users, in an order equal in every process.

    What is below `leaves` is left out.
    """
    done: dict[Node, None] = {}
    stack = [(root, False) for root in reversed(list(roots))]
    while stack:
        node, expanded = stack.pop()
        if node in done:
            continue
        if expanded:
            done[node] = None
            continue
        stack.append((node, True))
        if node not in leaves:
            stack.extend((child, False) for child in reversed(node.inputs))
    return list(done)


def substitute(roots: Iterable[Node], replacement: dict[Node, Node]) -> dict[Node, Node]:
    """Map every node the roots need to its copy in which the given nodes are replaced."""
    image: dict[Node, Node] = {}
    for node in topological(roots):
        if node in replacement:
            image[node] = replacement[node]
        elif node.inputs:
            image[node] = make(node.op, *(image[child] for child in node.inputs), attr=node.attr)
        else:
            image[node] = node
    return image
