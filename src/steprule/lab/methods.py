"""The arms of a comparison: an optimiser with its hyperparameters, the clippings before it, and a schedule."""

from __future__ import annotations

import inspect
from ast import literal_eval
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch

import steprule as sr
from steprule.console.text import near
from steprule.lab.clips import Clip
from steprule.lab.loading import digest
from steprule.lab.network import WIDE, kept_in
from steprule.lab.optimizers import Kind, Trained, find, worded

_USUAL = "clip_global_norm"
"""The clipping for which a bound alone stands."""


@dataclass(frozen=True)
class Method:
    """One arm: an optimiser by name, its fixed hyperparameters, the clippings before it, its schedule."""

    name: str
    hyper: tuple[tuple[str, Any], ...] = ()
    clips: tuple[Clip, ...] = ()
    schedule: str = "constant"
    parameters: str = WIDE
    """The type in which the network's parameters are kept."""
    of: Method | None = None
    """Of a variant, the method that it varies, whose learning rate it takes."""

    @property
    def kind(self) -> Kind:
        """The optimiser itself."""
        return find(self.name)

    @property
    def title(self) -> str:
        """The name a reader knows the optimiser by."""
        return self.kind.title

    @property
    def key(self) -> str:
        """A name unlike any other arm's, `adam · cosine · clip 1`."""
        settings = self._worded()
        schedule = [] if self.schedule == "constant" else [self.schedule]
        before = [f"{'clip' if clip.name == _USUAL else clip.name} {clip.bound:g}" for clip in self.clips]
        return " · ".join([self.name, *settings, *schedule, *before])

    @property
    def settings(self) -> str:
        """All settings except the learning rate, in words; "" without any."""
        parts = [clip.label for clip in self.clips]
        parts += self._worded()
        return ", ".join(parts + ([] if self.schedule == "constant" else [f"{self.schedule} schedule"]))

    def _worded(self) -> list[str]:
        kept = [] if self.parameters == WIDE else [f"parameters={self.parameters}"]
        return kept + [f"{name}={worded(value)}" for name, value in self.hyper]

    @property
    def full_batch(self) -> bool:
        """Whether one iteration is one pass over the training set."""
        return self.kind.full_batch

    @property
    def needs_closure(self) -> bool:
        """Whether one iteration evaluates the gradient several times."""
        return self.kind.needs_closure(dict(self.hyper))

    @property
    def default_lr(self) -> float | None:
        """The optimiser's default learning rate, or None if it has no default."""
        return self.kind.default_lr

    @property
    def ranges(self) -> Mapping[str, tuple[float, float]]:
        """The ranges in which the rule's author would search its hyperparameters, by name."""
        return _ranges(self)

    @property
    def lr_range(self) -> tuple[float, float] | None:
        """That of the learning rate, or None if its author says nothing."""
        found = self.ranges.get("lr")
        if found is not None and found[0] <= 0:
            raise sr.errors.HyperparameterError(
                f"{self.name} says that its learning rate is searched from {found[0]:g}: they are tried factors apart",
                fix=f"let it begin above 0, such as tune=({found[1] / 1000:g}, {found[1]:g}); or give --lr-range",
            )
        return found

    @property
    def clips_outside(self) -> bool:
        """Whether gradients are clipped before the step, by the lab: an optimiser of ours does it inside."""
        return bool(self.clips) and not self.kind.is_ours

    def clip(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Clip the gradients that lie in the parameters, in the order of the clippings."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for clip in self.clips:
            clip.apply(gradients)

    def optimizer(self, trained: Trained, lr: float) -> Any:
        """Return a real `torch.optim.Optimizer` of a model, or of parameters."""
        return self.kind.build(trained, lr, dict(self.hyper), self.clips)

    def explain(self) -> Any:
        """Return the library's own account of the method, or None for another library's optimiser."""
        return self.kind.account(dict(self.hyper), self.clips, self.parameters)

    def made_of(self) -> str:
        """Return the optimiser's formula if we know it, else the code that defines it."""
        account = self.explain()
        if account is not None:
            return account.formula.replace("\n", ", ")
        return f"{self.kind.origin} {digest(self.name)}".rstrip()

    def check(self, model: torch.nn.Module, lr: float) -> None:
        """Refuse, before any work, an optimiser that cannot train this model; the model is used up."""
        model = kept_in(model, self.parameters)
        if self.kind.is_ours:
            self.optimizer(model, lr)
            return
        try:
            optimizer = self.optimizer(model, lr)
            fault = _fault(optimizer)
            if not fault:
                for parameter in model.parameters():
                    parameter.grad = torch.zeros_like(parameter)
                optimizer.step()
        except Exception as error:  # noqa: BLE001 - another library's class may raise anything
            fault = f"{type(error).__name__}: {error}"
        if fault:
            raise sr.errors.StepruleError(
                f"{self.name} cannot train this network: {fault}",
                where=f"{self.name}(parameters, lr={lr:g}{''.join(f', {k}={v}' for k, v in self.hyper)})",
                fix="choose another optimiser, or other hyperparameters",
            )


@cache
def _ranges(method: Method) -> dict[str, tuple[float, float]]:
    return method.kind.ranges(dict(method.hyper))


def _fault(optimizer: Any) -> str:
    """Say why an object is no optimiser for the lab's loop; return "" if it is one."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        return f"it builds {type(optimizer).__name__}, which is no torch.optim.Optimizer"
    step = list(inspect.signature(type(optimizer).step).parameters.values())[1:]
    if any(part.default is part.empty and part.kind is part.POSITIONAL_OR_KEYWORD for part in step):
        return "its step needs a closure that evaluates the loss several times, so its iterations are not comparable"
    return "" if all("lr" in group for group in optimizer.param_groups) else "its groups hold no learning rate `lr`"


def accepted(name: str, hyper: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Return those hyperparameters that the optimiser takes, in its own order."""
    return tuple((key, hyper[key]) for key in find(name).takes if key in hyper)


def value_of(text: str) -> Any:
    """Return a hyperparameter's value as it was typed: a number, several with commas between them, true, or a word."""
    words = {"true": True, "false": False}
    if text.strip().lower() in words:
        return words[text.strip().lower()]
    try:
        value = literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text.strip()
    return value if isinstance(value, int | float | str | tuple) else text.strip()


def crossed(
    methods: Iterable[Method], schedules: Sequence[str] = ("constant",), bounds: Sequence[float | None] = (None,)
) -> tuple[Method, ...]:
    """Return every optimiser with every schedule and every bound of the global norm; None is no clipping."""
    return tuple(
        replace(method, schedule=schedule, clips=method.clips + (() if bound is None else (Clip(_USUAL, bound),)))
        for method in methods
        for schedule in schedules
        for bound in bounds
    )


def varied(methods: Iterable[Method], variants: Sequence[Mapping[str, Any]]) -> tuple[Method, ...]:
    """Return every method, each followed by its variants: the same formula with other options or parameters."""
    return tuple(one for method in methods for one in (method, *(_variant(method, own) for own in variants)))


def _variant(method: Method, own: Mapping[str, Any]) -> Method:
    """Return a method with other options."""
    unknown = [name for name in own if name != "parameters" and name not in method.kind.options]
    if unknown:
        known = ", ".join(["parameters", *method.kind.options])
        raise sr.errors.HyperparameterError(
            f"{unknown[0]!r} is no option of {method.name}: a variant changes no formula, since it is not tuned",
            fix=f"{near(unknown[0], known.split(', '))} it takes {known}".strip(),
        )
    for name, value in own.items():
        if name != "parameters":
            method.kind.check_value(name, value)
    options = {name: value for name, value in own.items() if name != "parameters"}
    hyper = tuple({**dict(method.hyper), **options}.items())
    return replace(method, hyper=hyper, parameters=own.get("parameters", method.parameters), of=method)
