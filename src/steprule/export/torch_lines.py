"""What updates in exported torch files share: how long lines are, what names are taken, and what is asked of whom."""

from __future__ import annotations

from collections.abc import Sequence

from ..graph.node import Node, Rank

LONGEST = 84
"""How long an expression may be before a part of it gets a line of its own."""
RESERVED = frozenset({
    "abs", "bits", "callable", "called", "check", "copies", "dict", "double", "draw", "drawn", "eigenvectors",
    "float", "gradient", "group", "inverse_root", "large", "largest", "largest_along", "length", "list",
    "logarithm", "loss", "map", "math", "matrix", "max", "min", "mixed", "modulo", "moved", "narrow", "next",
    "normal", "number", "typed", "orthogonalize", "orthogonalize_gram", "parameter", "place", "put_back", "qr",
    "rademacher", "random_bits", "ratio", "real", "refuse", "root", "scalar", "self", "send", "sign", "sorted",
    "squares", "squares_along", "stacked", "state", "stochastic", "stream", "sum", "together", "torch",
    "totals", "transpose", "uniform", "where", "wide", "word", "working", "zip",
})  # fmt: skip
"""Names that no value of a formula may have."""


def made(node: Node) -> bool:
    """Whether a node is computed, and neither read nor a number."""
    return bool(node.inputs) or node.kind == "chance"


def read_together(reads: Sequence[tuple[str, str]]) -> list[str]:
    """Read several values in a line, of those that are read alike."""
    lines: list[str] = []
    rows: list[tuple[list[str], list[str]]] = []
    for name, text in reads:
        kind = text.partition("(")[0] + text[-3:] * text.endswith("+ 1")
        names, texts = rows[-1] if rows else ([], [])
        alike = bool(texts) and kind == texts[0].partition("(")[0] + texts[0][-3:] * texts[0].endswith("+ 1")
        if alike and len(", ".join([*names, name])) + len(", ".join([*texts, text])) < LONGEST:
            names.append(name)
            texts.append(text)
        else:
            rows.append(([name], [text]))
    return lines + [f"    {', '.join(names)} = {', '.join(texts)}" for names, texts in rows]


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


__all__ = ["LONGEST", "RESERVED", "asks", "hosted", "made", "read_together"]
