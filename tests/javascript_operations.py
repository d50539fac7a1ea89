"""Every operation of the table in JavaScript, held to the interpreter at special numbers and at some of its range."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from roundings import INEXACT, UNITS
from steprule.backends.javascript import HELPERS, SPELLING
from steprule.graph.ops import OPS
from v8 import spelled, value

SPECIAL = [-np.inf, -2.0, -1.0, -0.0, 0.0, 0.5, 1.0, 2.0, 3.0, 1e-320, -1.7e308, np.inf, np.nan]


def units_off(found: Any, truth: Any) -> Any:
    """Return by how many units in the last place numbers differ; two NaN do not."""
    with np.errstate(all="ignore"):
        same = (found == truth) | (np.isnan(found) & np.isnan(truth))
        return np.nan_to_num(np.where(same, 0.0, np.abs(found - truth) / np.spacing(np.abs(truth))), nan=np.inf)


def holds(name: str, evaluate: Callable[[str], str] | None = None) -> None:
    """Compare an operation with its float64 meaning: exact ones bit for bit, the others within 4 units.

    It is computed in V8, or by whatever `evaluate` asks, which knows the functions of `v8.NUMBERS`.
    """
    row, rng = OPS[name], np.random.default_rng(1)
    wide = {"pow": ((0.0, 1.0), (0.0, 5000.0)), "exp": ((-745.0, 710.0),), "log": ((1e-300, 1e300),),
            "tanh": ((-30.0, 30.0),), "mod": ((-1e9, 1e9), (-7.0, 7.0))}.get(name, row.sample)  # fmt: skip
    columns = [np.concatenate([chosen, rng.uniform(*own, 1000), rng.uniform(*other, 1000)])
               for chosen, own, other in zip(zip(*itertools.product(SPECIAL, repeat=row.arity), strict=True),
                                             row.sample, wide, strict=True)]  # fmt: skip
    given = [f"(a{place} > 0)" if row.asks(place) else f"a{place}" for place in range(row.arity)]
    helpers = "\n".join(HELPERS.values())
    inputs = ", ".join(spelled(column) for column in columns)
    arguments = ", ".join(f"a{place} = inputs[{place}][i]" for place in range(row.arity))
    body = f"inputs[0].map((_, i) => {{ const {arguments}; return Number({SPELLING[name].format(*given)}); }})"
    run = f"((inputs) => {{ {helpers}\nreturn {body}; }})(inward([{inputs}]))"
    found = np.array(value(run, evaluate))
    with np.errstate(all="ignore"):
        taken = [column > 0 if row.asks(place) else column for place, column in enumerate(columns)]
        truth = np.asarray(row.meaning(*taken), float)
    assert units_off(found, truth).max() <= (UNITS if name in INEXACT else 0)
    if name not in {"minimum", "maximum"}:  # either zero is the smaller
        assert (np.signbit(found) == np.signbit(truth))[truth == 0].all()


__all__ = ["holds", "units_off"]
