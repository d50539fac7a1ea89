"""The facade: a real `torch.optim.Optimizer` for any rule; groups, state, tables, no mathematics.

Takes: a rule or chain, and a model's parameters.
Gives: `Optimizer`, and `explain`, which shows what it runs.
Next door: `backends` (who updates), `zoo` (the rules).
"""

from .classes import ASGD, SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, NAdam, RAdam, RMSprop, Rprop
from .explain import Explanation, explain
from .factored import CAME, SM3, Adafactor, AdamMini
from .free import DoG, Polyak, Prodigy
from .gauges import Gauges as Gauges
from .gauges import TensorBoardGauges as TensorBoardGauges
from .muon import Muon, NorMuon
from .optimizer import Optimizer
from .options import Options as Options
from .papers import (
    ADOPT,
    LAMB,
    LARS,
    MARS,
    SGLD,
    AdaBelief,
    Adan,
    AdEMAMix,
    Lion,
    Signum,
    StableAdamW,
    Yogi,
)
from .preconditioned import SOAP, Shampoo

__all__ = [
    "ADOPT",
    "ASGD",
    "CAME",
    "LAMB",
    "LARS",
    "MARS",
    "SGD",
    "SGLD",
    "SM3",
    "SOAP",
    "AdEMAMix",
    "AdaBelief",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamMini",
    "AdamW",
    "Adamax",
    "Adan",
    "DoG",
    "Explanation",
    "Lion",
    "Muon",
    "NAdam",
    "NorMuon",
    "Optimizer",
    "Polyak",
    "Prodigy",
    "RAdam",
    "RMSprop",
    "Rprop",
    "Shampoo",
    "Signum",
    "StableAdamW",
    "Yogi",
    "explain",
]
