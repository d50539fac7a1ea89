"""Read a rule's signature: positional arrays and slots, keyword-only hyperparameters and choices."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

from ..errors import HyperparameterError
from ..graph.graph import LOSS, Hyper, Slot
from .declare import Choice
from .messages import phrase, told
from .origin import refusal

STEP = "t"
ASKED = {STEP: "the step count", LOSS.name: "the loss, given to each step"}
"""What is reserved, and asked for as a keyword-only argument."""
OPTIONS = frozenset({"clip", "nonfinite", "backend", "compensated", "rounding", "state", "seed", "watch",
                     "capturable"})  # fmt: skip
"""The options of an optimiser: the fields of its `Options`, which this room cannot import."""
RESERVED = OPTIONS | {"step", "params", *ASKED}
"""Names that no argument may have."""
RESERVED_HYPERS = RESERVED - {"step"} | {
    *("self", "rule", "roles", "splits", "param_names"),
    *("foreach", "fused", "maximize", "differentiable"),
}
"""Names that no hyperparameter may have: also other words of optimisers, and option keys of torch's groups."""


@dataclass(frozen=True)
class Signature:
    """What a function declares, in order; `arrays` names the parameter, its gradient and the slots."""

    arrays: tuple[str, ...]
    slots: tuple[Slot, ...]
    hypers: dict[str, Hyper]
    choices: dict[str, Choice]
    wants_step: bool
    wants_loss: bool
    wants_first: bool = False

    @property
    def first(self) -> str:
        """The name under which it may ask for the gradient at the parameter itself: `g_theta` of theta and g."""
        return f"{self.arrays[1]}_{self.arrays[0]}"


def _refuse_reserved(name: str, reserved: AbstractSet[str], function: Callable[..., Any]) -> None:
    if name in reserved:
        used = phrase("reserved", names=", ".join(sorted(reserved - {*ASKED})))
        fix = phrase("asked", name=name, meaning=ASKED[name]) if name in ASKED else used
        raise refusal(*told("reserved", name=name, fix=fix), function)


def _slot(parameter: inspect.Parameter, function: Callable[..., Any]) -> Slot:
    name, default = parameter.name, parameter.default
    _refuse_reserved(name, RESERVED, function)
    if default is parameter.empty:
        return Slot(name)
    if isinstance(default, Slot):
        return replace(default, name=name)
    spelled = f"{name}={_spelled(default)}"
    raise refusal(*told("among arrays", spelled=spelled, name=function.__name__), function)


def _spelled(default: Any) -> str:
    """Spell a default as it may stand behind the `*`: there a value that is not a number is a variant."""
    if isinstance(default, Choice):
        return f"choice({', '.join(map(repr, default.options))})"
    if isinstance(default, Hyper):
        return f"hyper({default.value!r})"
    if isinstance(default, bool):
        return f"choice({default}, {not default})"
    return repr(default) if isinstance(default, int | float | None) else f"choice({default!r})"


def _hyper(parameter: inspect.Parameter, function: Callable[..., Any]) -> Hyper | Choice:
    name, default = parameter.name, parameter.default
    _refuse_reserved(name, RESERVED_HYPERS, function)
    if isinstance(default, Choice):
        return default
    if isinstance(default, Hyper):
        return replace(default, name=name)
    if default is parameter.empty or default is None:
        return Hyper(name)
    number = isinstance(default, int | float) and not isinstance(default, bool)
    try:
        return Hyper(name, Hyper(name).check(default if number else None, ""))
    except HyperparameterError:
        variant = phrase("variant default", name=name, spelled=_spelled(default))
        fix = phrase("finite default") if number else variant
        raise refusal(*told("default", name=name, default=repr(default), fix=fix), function) from None


def read_signature(function: Callable[..., Any], given: int = 2) -> Signature:
    """Return what a rule's or transform's signature declares, or say what is wrong with it."""
    if not inspect.isfunction(function):
        raise refusal(*told("no function", given=repr(function)))
    parameters = list(inspect.signature(function).parameters.values())
    starred = any(p.kind in {p.VAR_POSITIONAL, p.VAR_KEYWORD} for p in parameters)
    arrays = [p for p in parameters if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}]
    if starred or len(arrays) < given:
        new, short = (phrase("new parameter"), "new, ") if given == 3 else ("", "")
        stars = phrase("stars") if starred else ""
        raise refusal(*told("arguments", name=function.__name__, new=new, short=short, stars=stars), function)
    named = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    for p in parameters:
        if p.name in ASKED and p.default is not p.empty:  # nothing would read it
            _refuse_reserved(p.name, RESERVED, function)
    first = f"{arrays[1].name}_{arrays[0].name}"
    asked = {*ASKED, *(p.name for p in parameters if p.name == first and p.default is p.empty and p.name in named)}
    declared = {p.name: _hyper(p, function) for p in parameters if p.name in named and p.name not in asked}
    slots = [_slot(p, function) for p in arrays][given:]
    return Signature(
        tuple(p.name for p in arrays),
        tuple(slots),
        {name: one for name, one in declared.items() if isinstance(one, Hyper)},
        {name: one for name, one in declared.items() if isinstance(one, Choice)},
        STEP in named,
        LOSS.name in named,
        first in asked,
    )
