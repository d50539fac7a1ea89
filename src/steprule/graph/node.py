"""Node, the only kind of expression: frozen and interned, so that equal formulas are one object."""

from __future__ import annotations

import hashlib
import math
import weakref
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from enum import Flag
from functools import reduce
from operator import or_

from ..locks import lock
from .chance import SITES
from .ops import OPS, Kind, Reducer


class Rank(Flag):
    """Where a value varies: a set, ordered by inclusion. An operation varies where any of its inputs does.

    A tensor is seen as a matrix, its leading index by all others: rows and columns vary within it, and neither is in
    the other. A vector is one column, of which every element is a row; a number is a matrix of one element.
    Products have shapes of their own, whose elements stand beside none of the tensor's: rows by rows on its left,
    columns by columns on its right, and columns by rows where it is transposed.
    """

    HOST = 0
    GLOBAL = 1
    TENSOR = 3
    ROW = 7
    COLUMN = 11
    ELEMENT = 15
    LEFT = 19
    RIGHT = 35
    TRANSPOSED = 67

    @property
    def word(self) -> str:
        """Its name in messages."""
        return str(self.name).lower()

    @property
    def each(self) -> str:
        """How many numbers it has, in messages."""
        return "one number for all tensors" if self is Rank.GLOBAL else f"one number a {self.word}"

    def view(self, shape: Sequence[int]) -> tuple[int, int]:
        """Return the shape of what varies so beside a tensor of a shape, as a matrix: 1 along what it does not vary."""
        rows, columns = shape[0] if shape else 1, math.prod(shape[1:])
        if self in SIDES:
            first, last = (rows if side == "r" else columns for side in SIDES[self])
            return first, last
        return rows if self >= Rank.ROW else 1, columns if self >= Rank.COLUMN else 1

    def shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape in which it is kept: a number, or the tensor's own, with 1 along what it does not vary."""
        if self <= Rank.TENSOR:
            return ()
        if self.apart:
            return self.view(shape)
        leading = tuple(size if self >= Rank.ROW else 1 for size in shape[:1])
        return (*leading, *(size if self >= Rank.COLUMN else 1 for size in shape[1:]))

    @property
    def apart(self) -> bool:
        """Whether its values stand beside no element of the tensor: they are computed on whole tensors."""
        return self in SIDES and self is not Rank.ELEMENT

    def __le__(self, other: Rank) -> bool:
        return self & other is self

    def __lt__(self, other: Rank) -> bool:
        return self is not other and self <= other

    def __repr__(self) -> str:  # part of the key of what is read: orders of operands, and so bits, depend on it
        return f"<Rank.{self.name}: {min(self.value.bit_count(), 3)}>"


AXES = {0: Rank.COLUMN, 1: Rank.ROW}
"""What a reduction along an axis of a matrix gives a number for each of."""
SIDES = {Rank.ELEMENT: "rc", Rank.LEFT: "rr", Rank.RIGHT: "cc", Rank.TRANSPOSED: "cr"}
"""What the sides of a matrix are: the tensor's rows or its columns."""
_OF_SIDES = {sides: rank for rank, sides in SIDES.items()}
Attr = float | str | tuple[str, Rank] | Rank | None


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True, repr=False)
class Node:
    """One operation on earlier nodes; make it with `make` or the leaf functions, never directly.

    `attr` is a constant's value, the name of a hyperparameter or of the array that keeps a value, the (name, rank) of
    an array that is read, the number of a call that draws, or ROW or COLUMN where a reduction gives a number for each.
    `key` is a digest of the structure: equal in every process, so orders built on it are too.
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
    def truth(self) -> bool:
        """Whether it says that something holds, and is no number."""
        return OPS[self.op].truth

    @property
    def array(self) -> str:
        """The name of the array that it reads, or ""."""
        return self.attr[0] if isinstance(self.attr, tuple) else ""

    @property
    def site(self) -> int:
        """The number of a call that draws, as keys have it."""
        return SITES + int(self.attr)  # type: ignore[arg-type]

    @property
    def whole(self) -> bool:
        """Whether it is computed between passes, on whole tensors: a function of matrices, or what has their shapes."""
        return self.kind == "matrix" or (self.rank.apart and bool(self.inputs))

    @property
    def reduces(self) -> bool:
        """Whether it makes one number of many."""
        return OPS[self.op].reducer is not None

    @property
    def axis(self) -> int | None:
        """Along which axis of a matrix it reduces; None if it reduces all there is."""
        return next((axis for axis, kept in AXES.items() if self.attr is kept), None)

    def count(self, shape: Sequence[int]) -> int:
        """Return how many numbers each result of a reduction is made of, in a tensor of a shape."""
        sizes = zip((Rank.ROW, Rank.COLUMN), self.inputs[0].rank.view(shape), strict=True)
        return math.prod(size for axis, size in sizes if not axis <= self.rank)

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
    if kind == "chance":
        return Rank.ELEMENT
    if kind == "tensor":
        return attr if isinstance(attr, Rank) else Rank.TENSOR
    if kind == "global":
        return Rank.GLOBAL
    if kind == "size":
        return Rank.TENSOR
    if kind == "matrix" and (found := product(op, inputs)) is not None:
        return found
    return reduce(or_, (node.rank for node in inputs), Rank.HOST)


def product(op: str, inputs: Sequence[Node]) -> Rank | None:
    """Return the rank of a function of matrices, by its row's `sides`; None if these inputs do not fit together.

    Inputs without sides are numbers that are known before the step.
    """
    *taken, given = OPS[op].sides.replace("->", ",").split(",")
    known: dict[str, str] = {}
    for sides, node in zip(taken, inputs, strict=False):
        own = SIDES.get(node.rank)
        if own is None or any(known.setdefault(side, is_) != is_ for side, is_ in zip(sides, own, strict=True)):
            return None
    fits = all(node.rank is Rank.HOST for node in inputs[len(taken) :])
    return _OF_SIDES["".join(known[side] for side in given)] if fits else None


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


def drawn(op: str, site: int) -> Node:
    """Return the node of random numbers; each call in a rule has a `site` of its own, and so other numbers."""
    return make(op, attr=float(site))


def read(name: str, rank: Rank = Rank.ELEMENT) -> Node:
    """Return the node that reads an array: the parameter, the gradient, or a state slot."""
    return make("read", attr=(name, rank))


def told_apart(root: Node) -> Node | None:
    """Return what every tensor has of its own among what a number for all tensors is made of, if there is such.

    Steps and host slots are counted a tensor, since tensors may join late and miss steps. What is reduced over all
    tensors may use them.
    """
    below = topological([root])
    own = topological([root], {node for node in below if node.kind == "global"})
    return next((node for node in own if node.op == "step" or (node.array and node.rank is Rank.HOST)), None)


def topological(roots: Iterable[Node], leaves: Container[Node] = ()) -> list[Node]:
    """List every node the roots need, inputs before users, in an order equal in every process.

    Nodes below `leaves` are left out.
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
