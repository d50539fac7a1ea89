"""What updates in exported torch files share: how long lines are, what names are taken, and what is asked of whom."""

from __future__ import annotations

import builtins
import re
from collections.abc import Sequence

from ..graph.node import Node, Rank, topological

LONGEST = 84
"""How long an expression may be before a part of it gets a line of its own."""
WIDEST = 110
"""How long a line may be that reads values, its indentation apart."""
RESERVED = frozenset(dir(builtins)) | frozenset({
    "abs", "bits", "callable", "called", "check", "copies", "dict", "double", "draw", "drawn", "eigenvectors",
    "float", "gradient", "group", "inverse_root", "large", "largest", "largest_along", "length", "list",
    "logarithm", "loss", "map", "math", "matrix", "max", "min", "mixed", "modulo", "moved", "narrow", "next",
    "normal", "number", "typed", "orthogonalize", "orthogonalize_gram", "parameter", "place", "put_back", "qr",
    "rademacher", "random_bits", "ratio", "real", "refuse", "root", "scalar", "self", "send", "short", "sign", "sorted",
    "squares", "squares_along", "stacked", "state", "stochastic", "stream", "sum", "together", "torch",
    "totals", "transpose", "uniform", "where", "wide", "word", "working", "zip",
})  # fmt: skip
"""Names that no value of a formula may have."""
TAKEN = RESERVED | frozenset({
    "allowed", "best", "by", "closure", "defaults", "device", "finite", "gradients", "groups", "held", "init",
    "iterates", "keys", "most", "name", "new", "own", "p", "param_group", "params", "points", "rule", "seen", "shared",
    "since", "state_dict", "t", "tensors", "tolerance", "update", "updates", "value",
})  # fmt: skip
"""Names that no function of a rule may have either: what the class calls by them is something else."""


def made(node: Node) -> bool:
    """Whether a node is computed, and neither read nor a number."""
    return bool(node.inputs) or node.kind == "chance"


def read_together(reads: Sequence[tuple[str, str]]) -> list[str]:
    """Read several values in a line, of those that are read alike."""
    lines: list[str] = []
    rows: list[tuple[list[str], list[str]]] = []
    for name, text in reads:
        names, texts = rows[-1] if rows else ([], [])
        alike = bool(texts) and _kind(text) == _kind(texts[0])
        if alike and len(", ".join([*names, name])) + len(", ".join([*texts, text])) < WIDEST:
            names.append(name)
            texts.append(text)
        else:
            rows.append(([name], [text]))
    return lines + [f"    {', '.join(names)} = {', '.join(texts)}" for names, texts in rows]


def _kind(text: str) -> str:
    """Say how a value is read: by what function, and whether one is added."""
    return re.split(r"[(\[]", text)[0] + text[-3:] * text.endswith("+ 1")


def asks(node: Node) -> bool:
    """Whether a node is asked of all tensors together."""
    return node.kind == "global" or node.kind == "matrix"


def hosted(nodes: Sequence[Node]) -> set[Node]:
    """Return what is made of hyperparameters, counts and sizes alone."""
    found: set[Node] = set()
    for node in nodes:
        leaf = node.kind == "size" or (node.kind == "leaf" and (not node.array or node.rank is Rank.HOST))
        made = (
            bool(node.inputs)
            and not node.reduces
            and node.kind != "matrix"
            and all(own in found for own in node.inputs)
        )
        if leaf or made:
            found.add(node)
    return found


def decided(roots: Sequence[Node], known: set[Node]) -> dict[Node, set[Node]]:
    """Return the choices that host scalars decide, and what only one of their branches needs.

    They are those that spare a step a function of matrices other than a product.
    """
    found: dict[Node, set[Node]] = {}
    for node in topological(roots):
        if node.op != "where" or node.inputs[0] not in known:
            continue
        others = _reached(roots, node) | set(topological([node.inputs[0]]))
        only = {own for own in topological(node.inputs[1:]) if own not in others}
        spared = any(own.kind == "matrix" and own.op not in _QUICK for own in only)
        if spared and not any(own.kind == "global" for own in only):
            found[node] = only
    return found


_QUICK = {"matmul", "transpose"}
"""Functions of matrices that are not worth a line that decides whether they are needed."""


def _reached(roots: Sequence[Node], without: Node) -> set[Node]:
    """Return what is needed even if one node needs nothing."""
    stack, found = list(roots), set[Node]()
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack += () if node is without else node.inputs
    return found


__all__ = ["LONGEST", "RESERVED", "TAKEN", "asks", "decided", "hosted", "made", "read_together"]
