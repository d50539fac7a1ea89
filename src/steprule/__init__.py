"""Write the update rule as on the whiteboard; run it at memory speed.

>>> import torch, steprule as sr
>>> @sr.rule
... def signed(theta, g, m, *, lr=1e-3, beta=0.9):
...     m = beta * m + (1 - beta) * g
...     return theta - lr * sr.sign(m), m
>>> opt = signed.optimizer(torch.nn.Linear(4, 2).parameters(), lr=1e-2)
"""

from . import errors
from .optim import Explanation, Optimizer, explain
from .rule import (
    abs as abs,
)
from .rule import (
    chain,
    choice,
    clamp,
    exp,
    global_norm,
    global_sum,
    hyper,
    log,
    maximum,
    mean,
    minimum,
    norm,
    rule,
    sign,
    slot,
    sqrt,
    transform,
    where,
)
from .rule import (
    max as max,
)
from .rule import (
    sum as sum,
)
from .version import __version__
from .zoo import board
from .zoo.transforms import clip_global_norm, clip_norm, clip_value, weight_decay

# abs, max and sum hide builtins: they are there by name, and `from steprule import *` leaves them out.
__all__ = [
    "Explanation",
    "Optimizer",
    "__version__",
    "board",
    "chain",
    "choice",
    "clamp",
    "clip_global_norm",
    "clip_norm",
    "clip_value",
    "errors",
    "exp",
    "explain",
    "global_norm",
    "global_sum",
    "hyper",
    "log",
    "maximum",
    "mean",
    "minimum",
    "norm",
    "rule",
    "sign",
    "slot",
    "sqrt",
    "transform",
    "weight_decay",
    "where",
]
