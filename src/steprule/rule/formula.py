"""Rules, transforms and chains: what `@rule`, `@transform` and `chain` give back."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial, update_wrapper
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NoReturn, Self, overload

from ..errors import HyperparameterError, RuleError
from ..graph.graph import LOSS, Graph, Hyper
from ..graph.node import hyper, step
from ..locks import once
from .messages import phrase, told
from .origin import of_definition, refusal
from .signature import STEP, read_signature
from .symbols import Symbol
from .trace import Moves, Part, call, owners, trace

if TYPE_CHECKING:
    from ..optim.optimizer import Optimizer


class Formula:
    """Something that can be traced: a rule, a transform, or a chain of them. Immutable."""

    parts: tuple[Part, ...]
    name: str

    @once
    def graph(self) -> Graph:
        """The formula as data, exactly as written."""
        return trace(self.name, self.parts)

    @once
    def hypers(self) -> dict[str, Hyper]:
        """The hyperparameters under the names that param groups use."""
        return {hyper.name: hyper for hyper in self.graph.hypers if not hyper.told}

    def optimizer(self, params: Iterable[Any], **options: Any) -> Optimizer:
        """Make a `torch.optim.Optimizer` that runs this rule on these parameters.

        >>> import torch, steprule as sr
        >>> opt = sr.board.adam.optimizer(torch.nn.Linear(2, 1).parameters(), lr=1e-2)
        >>> isinstance(opt, torch.optim.Optimizer)
        True

        `options` are hyperparameters (defaults for every group) and those of `steprule.Optimizer`.
        """
        from ..optim.optimizer import Optimizer

        return Optimizer(params, self, **options)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _: Any) -> Self:
        return self

    def __repr__(self) -> str:
        values = ", ".join(f"{hyper.name}={hyper.value:g}" for part in self.parts for hyper in part.own.values()
                           if hyper.value is not None)  # fmt: skip
        return f"{self.name}({values})"


class _Single(Formula):
    """One function, with the values it was configured with."""

    def __init__(self, part: Part) -> None:
        self.part, self.parts, self.name = part, (part,), part.name
        update_wrapper(self, part.function, updated=())

    @property
    def __signature__(self) -> inspect.Signature:
        """The function's arguments, each hyperparameter with its value."""
        found, values = inspect.signature(self.part.function), self.part.keywords
        shown = [parameter.replace(default=parameter.empty if values.get(name) is None else values[name])
                 for name, parameter in found.parameters.items()]  # fmt: skip
        return found.replace(parameters=shown)

    @overload
    def __call__(self, **values: Any) -> Self: ...
    @overload
    def __call__(self, array: Any, /, *arrays: Any, **values: Any) -> Any: ...
    def __call__(self, *arrays: Any, **values: Any) -> Any:
        """Configure with keywords; with symbols, inside another rule, write the formula there; a rule is chained."""
        if len(arrays) == 1 and isinstance(arrays[0], Formula) and self.part.moves is not None:
            own = self(**values) if values else self
            return chain(arrays[0], own) if self.part.moves == "update" else chain(own, arrays[0])
        return self._inline(arrays, values) if arrays else self._configure(values)

    def _refuse(self, what: str, fix: str) -> NoReturn:
        raise HyperparameterError(what, where=of_definition(self.part.function), fix=fix)

    def _configure(self, values: dict[str, Any]) -> Self:
        part, choices = self.part, self.part.signature.choices
        hypers, chosen = dict(part.hypers), dict(part.chosen)
        for name, value in values.items():
            if name in hypers:
                number = hypers[name].check(value, f"`{self.name}`")
                hypers[name] = replace(hypers[name], value=number, given=True)
            elif name not in chosen:
                known = ", ".join([*part.own, *chosen]) or "none"
                self._refuse(*told("unknown hyper", owner=self.name, name=name, known=known))
            elif value not in choices[name].options:
                known = ", ".join(map(repr, choices[name].options))
                self._refuse(*told("unknown variant", owner=self.name, name=name, value=repr(value), known=known))
            else:
                chosen[name] = value
        part = replace(part, hypers=hypers, chosen=chosen)
        for name in values:
            if name in hypers and name not in part.own:
                known = ", ".join([*part.own, *chosen])
                only = repr(hypers[name].only)
                self._refuse(*told("other variant", owner=self.name, name=name, only=only, known=known))
        return type(self)(part)

    def _inline(self, arrays: tuple[Any, ...], values: dict[str, Any]) -> Any:
        symbol = next((value for value in (*arrays, *values.values()) if isinstance(value, Symbol)), None)
        if symbol is None:
            raise self._called_without_symbols(arrays)
        needed, keywords = self.part.signature.arrays, dict(self.part.keywords)
        if self.part.signature.wants_step:
            keywords[STEP] = Symbol(step(), symbol.recorder)
        if self.part.signature.wants_loss:
            keywords[LOSS.name] = Symbol(hyper(LOSS.name), symbol.recorder)
        if self.part.signature.wants_first:
            keywords[self.part.signature.first] = None
        unknown = [name for name in values if name not in {*keywords, *needed}]
        needs = {*self.part.hypers, self.part.signature.first}
        missing = [name for name, value in (keywords | values).items() if value is None and name in needs]
        if missing:
            what, fix = told("inline without value", owner=self.name, name=missing[0])
            raise HyperparameterError(what, fix=fix)
        if unknown or len(arrays) + len(values.keys() & set(needed)) != len(needed):
            given = ", ".join([*needed, *(f"{name}={name}" for name in keywords)])
            case = {"name": unknown[0]} if unknown else {"needed": ", ".join(needed)}
            name = "inline unknown" if unknown else "inline takes"
            raise refusal(*told(name, owner=self.name, given=given, **case))
        return call(self.part.function, arrays, keywords | values)

    def _called_without_symbols(self, arrays: tuple[Any, ...]) -> RuleError:
        """Return the error of values that are not named, or of tensors."""
        choices = self.part.signature.choices
        names = [name for name in (*self.part.own, *choices) if isinstance(arrays[0], int | float) or name in choices]
        if names and all(isinstance(value, int | float | str | None) for value in arrays):
            named = ", ".join(f"{name}={value!r}" for name, value in zip(names, arrays, strict=False))
            return refusal(*told("by name", owner=self.name, named=named))
        fix = phrase("run" if self.part.moves is None else "chained", name=self.name)
        return refusal(*told("on tensors", owner=self.name, fix=fix), self.part.function)

    def __reduce__(self) -> tuple[Any, ...]:
        function = self.part.function
        found = _look_up(function.__module__, function.__qualname__)
        if not isinstance(found, _Single) or found.part.function is not function:
            raise refusal(
                f"`{self.name}` cannot be pickled: {function.__module__}.{function.__qualname__} is not this rule",
                "define the rule at the top level of a module, under its own name",
                function,
            )
        values = {name: hyper.value for name, hyper in self.part.own.items() if hyper.given}
        return _restore, (function.__module__, function.__qualname__, values | self.part.chosen)


def _look_up(module: str, qualname: str) -> Any:
    """Return the value of a name in a module now; None if it has none."""
    try:
        return attrgetter(qualname)(importlib.import_module(module))
    except AttributeError:
        return None


def _restore(module: str, qualname: str, values: dict[str, Any]) -> Any:
    found = _look_up(module, qualname)
    if not isinstance(found, _Single):
        raise refusal(
            f"the rule {module}.{qualname} was saved, but is not there any more",
            "import or define it under this name before loading",
        )
    return found(**values)


class Rule(_Single):
    """An update rule: gives the new parameter and the new state."""


class Transform(_Single):
    """A change of the gradient (or of the parameter, before the rule): clipping, decay."""


class Chain(Formula):
    """Transforms in the order they are applied, then a rule."""

    def __init__(self, parts: tuple[Part, ...]) -> None:
        self.parts = parts
        self.name = "+".join(part.name for part in parts)

    def __call__(self, **values: Any) -> Chain:
        """Configure the parts with keywords, under the names that param groups use."""
        named = owners(self.parts)
        for place, part in enumerate(self.parts):
            for name in part.chosen:
                named.setdefault(name, []).append((place, name))
        given: list[dict[str, Any]] = [{} for _ in self.parts]
        for name, value in values.items():
            if name not in named:
                known = ", ".join(named) or "none"
                what, fix = told("unknown hyper", owner=self.name, name=name, known=known)
                raise HyperparameterError(what, fix=fix)
            for place, own in named[name]:
                given[place][own] = value
        return Chain(tuple(_single(part)(**own).part for part, own in zip(self.parts, given, strict=True)))

    def __reduce__(self) -> tuple[Any, ...]:
        return chain, tuple(map(_single, self.parts))


def _single(part: Part) -> _Single:
    return (Rule if part.moves is None else Transform)(part)


def _made(kind: type[_Single], moves: Moves | None, evaluate_at: Any, function: Callable[..., Any]) -> _Single:
    if moves not in {None, "gradient", "parameter", "update"}:
        raise refusal(*told("moves", moves=repr(moves)), function)
    signature = read_signature(function, 3 if moves == "update" else 2)
    if evaluate_at is not None and not inspect.isfunction(evaluate_at):
        raise refusal(*told("evaluate_at", given=repr(evaluate_at)), function)
    chosen = {name: declared.options[0] for name, declared in signature.choices.items()}
    return kind(Part(function.__name__, function, signature, signature.hypers, chosen, moves, evaluate_at))


@overload
def rule(function: Callable[..., Any], *, evaluate_at: Callable[..., Any] | None = None) -> Rule: ...
@overload
def rule(*, evaluate_at: Callable[..., Any] | None = None) -> Callable[[Callable[..., Any]], Rule]: ...
def rule(function: Callable[..., Any] | None = None, *, evaluate_at: Callable[..., Any] | None = None) -> Any:
    """Turn a function that reads like a formula into an update rule.

    >>> import steprule as sr
    >>> @sr.rule
    ... def lion(theta, g, m, *, lr=1e-4, beta1=0.9, beta2=0.99):
    ...     update = sr.sign(beta1 * m + (1 - beta1) * g)
    ...     return theta - lr * update, beta2 * m + (1 - beta2) * g
    >>> lion(lr=3e-4)
    lion(lr=0.0003, beta1=0.9, beta2=0.99)

    Positional arguments are arrays: the parameter, its gradient, then state slots (zero at the start).
    Keyword-only arguments are hyperparameters; `t` is the step count, from 1, and `loss` the value that a closure
    returns or `step(loss=loss)` is given. It returns the new parameter, then the new slots. `evaluate_at` gives the
    point where the gradient is taken, from any of the rule's arguments by name (Nesterov's look-ahead), or `new_theta`,
    the parameter that it returns: such a rule is implicit, and its hyperparameters `tolerance` and `max_eval` say when
    its point is found.

    `g` is always the gradient at that point. `g_theta` (the names of the gradient and the parameter, joined) is the one
    at the parameter itself: the point may ask for it, and so may the rule, as a keyword-only argument without default.
    Every step then evaluates a closure twice, first at the parameter and then at the point; `loss` is the first value,
    and `step()` without a closure is refused. Transforms before the rule change `g` alone, unless they change no more
    than its sign or unit.

    >>> @sr.rule(evaluate_at=lambda theta, g_theta, *, rho: theta + rho * g_theta / sr.global_norm(g_theta))
    ... def sharpness_aware(theta, g, *, lr=0.1, rho=0.05):
    ...     return theta - lr * g

    Raises `RuleError` for a bad signature at once, and for a bad formula, or one of more than 1000 operations, when it
    is first traced.
    """
    made = partial(_made, Rule, None, evaluate_at)
    return made if function is None else made(function)


@overload
def transform(
    function: Callable[..., Any], *, moves: Moves = "gradient", evaluate_at: Callable[..., Any] | None = None
) -> Transform: ...
@overload
def transform(
    *, moves: Moves = "gradient", evaluate_at: Callable[..., Any] | None = None
) -> Callable[[Callable[..., Any]], Transform]: ...
def transform(
    function: Callable[..., Any] | None = None,
    *,
    moves: Moves = "gradient",
    evaluate_at: Callable[..., Any] | None = None,
) -> Any:
    """Turn a function of the parameter and the gradient into a transform, to stand before a rule.

    >>> import steprule as sr
    >>> @sr.transform
    ... def clip_norm(theta, g, *, max_norm=1.0):
    ...     return g * sr.minimum(1, max_norm / sr.norm(g))
    >>> sr.chain(clip_norm, sr.board.sgd(lr=0.1)).name
    'clip_norm+sgd'

    It returns the new gradient, then its new slots; with `moves="parameter"` the first value is the
    parameter as the rule shall see it. With `moves="update"` it stands behind the rule and takes a third array, the new
    parameter, of which it returns another one: `cautious(rule)` is `chain(rule, cautious)`. `evaluate_at` gives the
    point where the gradient of the whole chain is taken, as a rule's does; one link of a chain may have it. Raises
    `RuleError` as `rule` does, and for another word in `moves`.
    """
    made = partial(_made, Transform, moves, evaluate_at)
    return made if function is None else made(function)


def chain(*formulas: Formula) -> Formula:
    """Compose transforms and a rule: each transform's gradient is the next one's.

    >>> import steprule as sr
    >>> sr.chain(sr.clip_value(limit=0.5), sr.clip_global_norm, sr.board.momentum(lr=0.1)).name
    'clip_value+clip_global_norm+momentum'

    The rule comes last, but for transforms of its update. Where two parts use one hyperparameter name, the rule keeps
    it and the transform's is prefixed with the transform's name. Raises `RuleError` for anything else, for an order in
    which the parts cannot stand, and where two of them say where the gradient is taken.
    """
    for formula in formulas:
        if not isinstance(formula, Formula):  # pyright: ignore[reportUnnecessaryIsInstance]
            fix = phrase("decorate" if inspect.isfunction(formula) else "links")
            raise refusal(*told("no link", given=repr(formula), fix=fix))
    parts = tuple(part for formula in formulas for part in formula.parts)
    if not parts:
        raise refusal(*told("empty chain"))
    _check_order(parts)
    return Chain(parts)


def _check_order(parts: Sequence[Part]) -> None:
    """Raise `RuleError` unless one rule stands behind what acts before it, and before what changes its update."""
    ruled = False
    pointing = [part for part in parts if part.evaluate_at is not None]
    if len(pointing) > 1:
        first, second = pointing[0], pointing[1]
        fix = phrase("leave one", name=first.name) if first.moves else phrase("leave", name=second.name)
        raise refusal(*told("two points", name=first.name, other=second.name, fix=fix), second.function)
    for place, part in enumerate(parts):
        if part.moves is None and any(other.moves != "update" for other in parts[place + 1 :]):
            raise refusal(*told("rule not last", name=part.name), part.function)
        ruled = ruled or part.moves is None
        if part.moves == "update" and not ruled:
            raise refusal(*told("update first", name=part.name), part.function)
    if not ruled:
        raise refusal(*told("no rule", name=parts[-1].name), parts[-1].function)
