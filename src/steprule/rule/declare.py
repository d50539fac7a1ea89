"""What a signature may declare besides names: hyperparameters with ranges, slots, choices."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..errors import HyperparameterError
from ..graph.graph import Hyper, Slot
from ..graph.node import Rank
from .messages import phrase, told
from .origin import refusal

RANKS: dict[str, Rank] = {
    rank.word: rank
    for rank in [Rank.ELEMENT, Rank.ROW, Rank.COLUMN, Rank.TENSOR, Rank.GLOBAL, Rank.HOST, Rank.LEFT, Rank.RIGHT]
}


@dataclass(frozen=True, slots=True)
class Choice:
    """A named variant of a rule, fixed when it is traced; the first option is the default."""

    options: tuple[Any, ...]


def hyper(
    value: float | None = None,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    shared: bool = False,
    only: Any = None,
    tune: tuple[float, float] | None = None,
) -> Any:
    """Declare a hyperparameter with its legal range, and the range in which to search its value.

    >>> import steprule as sr
    >>> @sr.rule
    ... def sgd(theta, g, *, lr=sr.hyper(1e-3, low=0, tune=(1e-4, 1e-1))):
    ...     return theta - lr * g
    >>> sgd.hypers["lr"].interval()
    '[0, ∞)'

    `low` and `high` belong to the range, `above` and `below` do not. Without `value` it must be given
    before the rule runs. `shared=True` in a transform means the rule's own hyperparameter of that name. `only`
    names the option of a `choice` without which there is no such hyperparameter. `tune` is where `steprule compare`
    tries learning rates and `steprule tune` searches, unless they are told otherwise: two numbers of the legal range,
    the lower first; by the logarithm where that is above 0, else evenly. An optimiser takes no notice of it.
    Raises `RuleError` for bounds that are no range, and for a value or a `tune` outside them.
    """
    for name, bound in {"low": low, "high": high, "above": above, "below": below}.items():
        _checked(Hyper(name), bound)
    declared = Hyper("", value, low, high, above, below, shared, only)
    if math.isnan(declared.example()) or None not in {low, above} or None not in {high, below}:
        raise refusal(*told("no range", low=low, above=above, high=high, below=below))
    return replace(_checked(declared, value), tune=_searched(declared, tune))


def _searched(declared: Hyper, tune: Any) -> tuple[float, float] | None:
    """Return the range of a search once it is one: two legal numbers, the lower first."""
    if tune is None:
        return None
    try:
        low, high = (declared.check(end, "") for end in tune)
    except (TypeError, ValueError, HyperparameterError):
        low, high = 1.0, 0.0
    if low < high:
        return low, high
    usual = phrase("usual") if declared.admits(1e-4) and declared.admits(0.1) else ""
    raise refusal(*told("tune", tune=repr(tune), interval=declared.interval(), usual=usual))


def _checked(declared: Hyper, value: float | None) -> Hyper:
    """Return a declaration whose value, if it has one, is a number in its range."""
    if value is not None:
        try:
            declared.check(value, "this declaration")
        except HyperparameterError as error:
            raise refusal(error.what.replace("``", "the default"), error.fix) from None
    return declared


def slot(
    *,
    init: float | Literal["theta", "identity"] = 0.0,
    rank: Literal["element", "row", "column", "tensor", "global", "host", "left", "right"] = "element",
    low: float | None = None,
    dtype: Literal["float32"] | None = None,
) -> Any:
    """Declare a state slot that does not start from zero, is smaller than the parameter, or is never negative.

    >>> import steprule as sr
    >>> @sr.rule
    ... def adagrad(theta, g, s=sr.slot(init=0.1), *, lr=0.01):
    ...     s = s + g**2
    ...     return theta - lr * g / sr.sqrt(s), s

    `init="theta"` starts it as a copy of the parameter at its first step, by whatever name the rule has for that.
    `rank="row"` keeps one number a row, `rank="column"` one a column, `rank="tensor"` one a tensor, each in float32 at
    least; `rank="host"` one float64 number on the host. `rank="global"` keeps one float64 number for all tensors that
    the formula steps, in all groups; it is made of reductions over all tensors, other such numbers, and
    hyperparameters, in which the groups must agree. Rows and columns are those of a matrix: a tensor's leading index by
    all others. A vector is one column, of which every element is a row. `rank="left"` keeps a matrix
    of rows by rows, `rank="right"` one of columns by columns; `init="identity"` starts it as the identity.
    `low=0` promises that it is never negative, where the formula does not show that as above: 8 bits keep its root.
    `dtype="float32"` keeps it in float32 at least, beside narrower parameters and whatever the option `state` says.
    Raises `RuleError` for another word, and for a start that a slot of this rank cannot have.
    """
    if dtype not in (None, "float32"):
        raise refusal(*told("slot dtype", dtype=repr(dtype)))
    if rank not in tuple(RANKS):
        raise refusal(*told("slot rank", rank=repr(rank), ranks=", ".join(RANKS)))
    if isinstance(init, str) and not _starts(init, rank):
        own = RANKS[rank]
        small = phrase("matrix slot") if own.apart else phrase("small slot", rank=repr(rank), each=own.each)
        raise refusal(*told("slot init", init=repr(init), few="" if rank == "element" else small))
    if not isinstance(init, str):
        _checked(Hyper("init"), init)
        init = float(init)
    if low not in (None, 0) or (low == 0 and not isinstance(init, str) and init < 0):
        raise refusal(*told("slot low", low=repr(low), init=repr(init)))
    return Slot("", RANKS[rank], init, low, dtype is not None)


def _starts(init: str, rank: str) -> bool:
    """Whether slots of a rank can start from what is no number."""
    return (init, rank) == ("theta", "element") or (init == "identity" and rank in {"left", "right"})


def choice(*options: Any) -> Any:
    """Declare a keyword that picks a variant of the formula; the first option is the default.

    >>> import steprule as sr
    >>> @sr.rule
    ... def sgd(theta, g, *, lr=0.1, normalised=sr.choice(False, True)):
    ...     return theta - lr * (g / sr.norm(g) if normalised else g)
    >>> sr.explain(sgd(normalised=True)).formula
    'θₜ = θₜ₋₁ − η · g / ‖g‖_tensor'

    Unlike a hyperparameter it is an ordinary Python value in the rule, fixed when the rule is traced. Raises
    `RuleError` without an option; the rule raises `HyperparameterError` for what is none of them.
    """
    if not options:
        raise refusal(*told("no options"))
    return Choice(options)
