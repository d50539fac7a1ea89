"""The language: what an author writes, and how it becomes a graph.

Takes: a Python function, run once on symbols.
Gives: a `Graph`, verified, in which every node remembers its source line.
Next door: `graph` (what is built), `plan` (who cuts it into passes).
"""

from .declare import choice, hyper, slot
from .formula import Chain, Formula, Rule, Transform, chain, rule, transform
from .functions import (
    abs,
    clamp,
    exp,
    global_norm,
    global_sum,
    log,
    max,
    maximum,
    mean,
    minimum,
    norm,
    sign,
    sqrt,
    sum,
    where,
)

__all__ = [
    "Chain",
    "Formula",
    "Rule",
    "Transform",
    "abs",
    "chain",
    "choice",
    "clamp",
    "exp",
    "global_norm",
    "global_sum",
    "hyper",
    "log",
    "max",
    "maximum",
    "mean",
    "minimum",
    "norm",
    "rule",
    "sign",
    "slot",
    "sqrt",
    "sum",
    "transform",
    "where",
]
