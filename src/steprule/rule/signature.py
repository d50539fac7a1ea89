"""Read a rule's signature: positional arrays and slots, keyword-only hyperparameters and choices."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

from ..errors import HyperparameterError, RuleError
from ..graph.graph import Hyper, Slot
from .declare import Choice
from .origin import of_definition

STEP = "t"
OPTIONS = frozenset({"clip", "nonfinite", "backend", "compensated", "capturable"})
"""What an optimiser takes besides hyperparameters: the fields of its `Options`, which this room cannot ask."""
RESERVED = OPTIONS | {"step", "params", STEP}
"""What no argument may be called."""
RESERVED_HYPERS = RESERVED - {"step"} | {
    *("self", "rule", "state", "param_names"),
    *("foreach", "fused", "maximize", "differentiable"),
}
"""What no hyperparameter may be called: also other words of optimisers, and keys that set options in torch's groups."""


@dataclass(frozen=True)
class Signature:
    """What a function declares, in order."""

    parameter: str
    gradient: str
    slots: tuple[Slot, ...]
    hypers: dict[str, Hyper]
    choices: dict[str, Choice]
    wants_step: bool


def _refuse_reserved(name: str, reserved: AbstractSet[str], function: Callable[..., Any]) -> None:
    if name in reserved:
        used = ", ".join(sorted(reserved - {STEP}))
        asked = "t is the step count: ask for it as a keyword-only argument, `*, t`"
        raise RuleError(
            f"`{name}` is reserved, so it cannot name an argument of a rule",
            where=of_definition(function),
            fix=asked if name == STEP else f"choose another name; optimisers use {used} themselves",
        )


def _slot(parameter: inspect.Parameter, function: Callable[..., Any]) -> Slot:
    default = parameter.default
    _refuse_reserved(parameter.name, RESERVED, function)
    if default is inspect.Parameter.empty:
        return Slot(parameter.name)
    if isinstance(default, Slot):
        return replace(default, name=parameter.name)
    spelled = _spelled(default)
    raise RuleError(
        f"`{parameter.name}={spelled}` stands among the arrays, but looks like a hyperparameter",
        where=of_definition(function),
        fix=f"put it after a lone `*`: def {function.__name__}(theta, g, *, {parameter.name}={spelled})",
    )


def _spelled(default: Any) -> str:
    """Spell a default as it may stand behind the `*`: what is no number is a variant there."""
    if isinstance(default, Choice):
        return f"choice({', '.join(map(repr, default.options))})"
    if isinstance(default, Hyper):
        return f"hyper({default.value!r})"
    if isinstance(default, bool):
        return f"choice({default}, {not default})"
    return repr(default) if isinstance(default, int | float | None) else f"choice({default!r})"


def _hyper(parameter: inspect.Parameter, function: Callable[..., Any]) -> Hyper | Choice:
    default = parameter.default
    _refuse_reserved(parameter.name, RESERVED_HYPERS, function)
    if isinstance(default, Choice):
        return default
    if isinstance(default, Hyper):
        return replace(default, name=parameter.name)
    if default is inspect.Parameter.empty or default is None:
        return Hyper(parameter.name)
    declared = Hyper(parameter.name, default if isinstance(default, int | float) else None)
    try:
        return replace(declared, value=declared.check(None if isinstance(default, bool) else default, ""))
    except HyperparameterError:
        number = isinstance(default, int | float) and not isinstance(default, bool)
        fix = "give a finite number" if number else f"a variant of the formula is declared as {parameter.name}="
        raise RuleError(
            f"the default {parameter.name}={default!r} is no number",
            where=of_definition(function),
            fix=fix if number else fix + _spelled(default),
        ) from None


def read_signature(function: Callable[..., Any]) -> Signature:
    """Return what a rule's or transform's signature declares, or say what is wrong with it."""
    if not inspect.isfunction(function):
        raise RuleError(
            f"{function!r} is no Python function, so it cannot be read as a formula",
            fix="decorate a function: @rule above def name(theta, g, *, lr=1e-3)",
        )
    parameters = list(inspect.signature(function).parameters.values())
    stars = [p for p in parameters if p.kind in {p.VAR_POSITIONAL, p.VAR_KEYWORD}]
    arrays = [p for p in parameters if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}]
    if stars or len(arrays) < 2:
        raise RuleError(
            f"`{function.__name__}` needs positional arguments: the parameter, its gradient, then the state slots"
            + (" (no *args or **kwargs)" if stars else ""),
            where=of_definition(function),
            fix=f"def {function.__name__}(theta, g, m, *, lr=1e-3): ...",
        )
    hypers: dict[str, Hyper] = {}
    choices: dict[str, Choice] = {}
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name != STEP:
            declared = _hyper(parameter, function)
            if isinstance(declared, Choice):
                choices[parameter.name] = declared
            else:
                hypers[parameter.name] = declared
    wants_step = any(p.name == STEP and p.kind is p.KEYWORD_ONLY for p in parameters)
    slots = tuple(_slot(p, function) for p in arrays[2:])
    for parameter in arrays[:2]:
        _slot(parameter, function)
    return Signature(arrays[0].name, arrays[1].name, slots, hypers, choices, wants_step)
