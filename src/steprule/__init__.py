"""Write the update rule as on the whiteboard; run it at memory speed.

>>> import torch, steprule as sr
>>> @sr.rule
... def signed(theta, g, m, *, lr=1e-3, beta=0.9):
...     m = beta * m + (1 - beta) * g
...     return theta - lr * sr.sign(m), m
>>> opt = signed.optimizer(torch.nn.Linear(4, 2).parameters(), lr=1e-2)
"""

import builtins

from . import errors
from .export import export
from .optim import Explanation, Gauges, Optimizer, TensorBoardGauges, explain
from .rule import chain, choice, functions, hyper, rule, slot, transform, watch
from .rule.functions import *
from .version import __version__
from .zoo import board
from .zoo.free import schedule_free_adamw, schedule_free_sgd
from .zoo.papers import mars_exact
from .zoo.transforms import (
    adagc,
    cautious,
    cautious_weight_decay,
    clip_global_norm,
    clip_last_global_norm,
    clip_norm,
    clip_value,
    ema,
    lookahead,
    sam,
    weight_decay,
)

__all__ = ["Explanation", "Gauges", "Optimizer", "TensorBoardGauges", "__version__", "adagc", "board", "cautious",
           "cautious_weight_decay", "chain", "choice", "clip_global_norm", "clip_last_global_norm", "clip_norm",
           "clip_value", "ema", "errors", "explain", "export", "hyper", "lookahead", "mars_exact", "rule", "sam",
           "schedule_free_adamw", "schedule_free_sgd", "slot", "transform", "watch", "weight_decay"]  # fmt: skip
__all__ += functions.__all__
# Those that would hide builtins are there by name, and `from steprule import *` leaves them out.
__all__[:] = [name for name in __all__ if not hasattr(builtins, name)]
