"""The language: what an author writes, and how it becomes a graph.

Takes: a Python function, run once on symbols.
Gives: a `Graph`, verified, in which every node remembers its source line.
Next door: `graph` (what is built), `plan` (who cuts it into passes).
"""

from . import functions
from .declare import choice, hyper, slot
from .formula import Chain, Formula, Rule, Transform, chain, rule, transform
from .functions import *
from .watching import watch

__all__ = ["Chain", "Formula", "Rule", "Transform", "chain", "choice", "hyper", "rule", "slot", "transform",
           "watch"]  # fmt: skip
__all__ += functions.__all__
