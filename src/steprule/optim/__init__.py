"""The facade: a real `torch.optim.Optimizer` for any rule; groups, state, tables, no mathematics.

Takes: a rule or chain, and a model's parameters.
Gives: `Optimizer`, and `explain`, which shows what it runs.
Next door: `backends` (who updates), `zoo` (the rules).
"""

from .classes import ASGD, SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, NAdam, RAdam, RMSprop, Rprop
from .explain import Explanation, explain
from .gauges import Gauges as Gauges
from .gauges import TensorBoardGauges as TensorBoardGauges
from .optimizer import Optimizer
from .options import Options as Options
from .papers import ADOPT, LAMB, LARS, AdaBelief, Adan, AdEMAMix, Lion, Yogi

__all__ = [
    "ADOPT",
    "ASGD",
    "LAMB",
    "LARS",
    "SGD",
    "AdEMAMix",
    "AdaBelief",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Adan",
    "Explanation",
    "Lion",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "Rprop",
    "Yogi",
    "explain",
]
