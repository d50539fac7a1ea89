"""The optimisers that can be compared: the board's rules, the library's classes, and any other by `module:Class`."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import torch

import steprule as sr
from steprule.console.text import near
from steprule.lab import clips
from steprule.lab.clips import Clip
from steprule.lab.loading import is_reference, load

TITLES = {
    "gd": "Gradient descent",
    "sgd": "Stochastic gradient descent",
    "momentum": "SGD with momentum",
    "nesterov": "Nesterov momentum",
    "adagrad": "AdaGrad",
    "rmsprop": "RMSProp",
    "adam": "Adam",
}
"""The board's rules by name, in the order of the whiteboard."""

VARIANTS = {
    "nesterov-implicit": ("Implicit Nesterov momentum", sr.board.nesterov(look_ahead="implicit")),
    "schedule-free-sgd": ("Schedule-Free SGD", sr.schedule_free_sgd),
    "schedule-free-adamw": ("Schedule-Free AdamW", sr.schedule_free_adamw),
    "adam+cautious": ("Cautious Adam", sr.cautious(sr.board.adam)),
    "adam+lookahead": ("Adam with Lookahead", sr.lookahead(sr.board.adam)),
    "sam+momentum": ("SAM of SGD with momentum", sr.sam(sr.board.momentum)),
    "sam+adam": ("SAM of Adam", sr.sam(sr.board.adam)),
    "mars-exact": ("MARS, exact", sr.mars_exact),
}
"""Rules besides the board's, and variants of those, that have a name of their own, with their titles."""

CLASSES = {
    name.lower(): getattr(sr.optim, name)
    for name in sorted(sr.optim.__all__, key=str.lower)
    if name not in {"Optimizer", "Explanation", "explain"} and name.lower() not in TITLES
}
"""The library's classes by name, where the board has not taken it: `steprule.optim:Adam` names the others."""

NAMES = (*TITLES, *VARIANTS, *CLASSES)
"""Every name that stands for an optimiser by itself."""

_RULES = (type(sr.board.sgd), type(sr.chain(sr.clip_value, sr.board.sgd)))
TRANSFORMS = {name: value for name, value in vars(sr).items() if isinstance(value, type(sr.clip_value))}
"""The library's transforms: joined by `+` they stand before or behind a rule, as in the name of a chain."""

_RESERVED = frozenset({"params", "parameters", "lr", "t", "maximize", "capturable", "differentiable"})
"""Arguments that the lab sets itself, or that would change what is compared."""

_OPTIONS = fields(sr.optim.Options)
OPTIONS = {field.name: field.default for field in _OPTIONS if field.metadata.get("lab", True)}
"""The options of every optimiser of the library, with the defaults; their fields may say `lab=False`."""

CHOICES = {field.name: field.metadata["choices"] for field in _OPTIONS if "choices" in field.metadata}
"""The values that an option may have, if they are words."""


Trained = torch.nn.Module | Iterable[torch.nn.Parameter]


def parameters_of(trained: Trained) -> list[torch.nn.Parameter]:
    """List the parameters of a model, or those that are given."""
    return list(trained.parameters() if isinstance(trained, torch.nn.Module) else trained)


@dataclass(frozen=True)
class Kind:
    """An optimiser as it can be built: a rule of the library's language, or a class of torch's interface.

    `takes` holds its hyperparameters besides the learning rate, with their defaults.
    """

    name: str
    title: str
    target: Any
    takes: Mapping[str, Any]
    default_lr: float | None
    open: bool = False
    """Whether it takes hyperparameters that its signature does not name."""

    @property
    def full_batch(self) -> bool:
        """Whether one iteration is one pass over the training set."""
        return "gd" in self.name.split("+")

    @property
    def options(self) -> Mapping[str, Any]:
        """Its options, with the defaults: they are no hyperparameters of the formula."""
        return OPTIONS if self.is_ours else {}

    @property
    def origin(self) -> str:
        """Where the optimiser is defined, the same in every process."""
        named = self.target if hasattr(self.target, "__qualname__") else type(self.target)
        return f"{named.__module__}.{named.__qualname__}"

    @property
    def is_rule(self) -> bool:
        """Whether it is a formula of the library's language."""
        return isinstance(self.target, _RULES)

    @property
    def is_ours(self) -> bool:
        """Whether the library runs it: then its formula is known, and it clips inside its step."""
        return self.is_rule or (isinstance(self.target, type) and issubclass(self.target, sr.Optimizer))

    def needs_closure(self, hyper: dict[str, Any]) -> bool:
        """Whether its step evaluates the gradient itself, several times: at θ and elsewhere, or where the step ends."""
        graph = self._program(hyper, ()).graph if self.is_rule else None
        return graph is not None and (graph.implicit or bool(graph.first))

    def build(self, trained: Trained, lr: float, hyper: dict[str, Any], before: Sequence[Clip]) -> Any:
        """Return the optimiser of a model, or of parameters: one that routes by role is given the model itself.

        One of ours has the clippings inside its step; any other one is built without them.
        """
        params = trained if isinstance(trained, torch.nn.Module) and "roles" in self.takes else parameters_of(trained)
        if self.is_rule:
            return self._program(hyper, before).optimizer(params, lr=lr, **self._options_in(hyper))
        own = {"clip": clips.transform(before)} if before and self.is_ours else {}
        return self.target(params, lr=lr, **own, **hyper)

    def _program(self, hyper: dict[str, Any], before: Sequence[Clip]) -> Any:
        """Return the configured rule behind its clippings."""
        own = {key: value for key, value in hyper.items() if key not in self.options}
        program = self.target(**own) if own else self.target
        return sr.chain(*(clip.transform() for clip in before), program) if before else program

    def ranges(self, hyper: dict[str, Any]) -> dict[str, tuple[float, float]]:
        """Return where the rule says that its hyperparameters are searched: nothing of other libraries' optimisers."""
        if not self.is_ours:
            return {}
        program = self._program(hyper, ()) if self.is_rule else self._sample(hyper, ()).program
        found = {name: one.tune for name, one in program.hypers.items() if name in {"lr", *self.takes}}
        return {name: ends for name, ends in found.items() if ends is not None}

    def _sample(self, hyper: dict[str, Any], before: Sequence[Clip], parameters: str = "float32") -> Any:
        """Return the optimiser of one matrix, large enough for slots of 8 bits."""
        matrix = torch.ones(64, 64, dtype=getattr(torch, parameters))
        return self.build([torch.nn.Parameter(matrix)], 0.1, hyper, before)

    def _options_in(self, hyper: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in hyper.items() if key in self.options}

    def account(self, hyper: dict[str, Any], before: Sequence[Clip], parameters: str = "float32") -> Any:
        """Return the library's account of formula, passes and bytes, or None for an optimiser that is not ours."""
        if not self.is_ours:
            return None
        if self.is_rule and not self._options_in(hyper) and parameters == "float32":
            return sr.explain(self._program(hyper, before))
        return sr.explain(self._sample(hyper, before, parameters))

    def check_value(self, name: str, value: Any) -> None:
        """Refuse a hyperparameter or option that it does not take, or a value of another kind than the default's."""
        if name in self.options:
            return self._check_option(name, value)
        if name not in self.takes and not (self.open and name not in _RESERVED):
            known = ", ".join(self.takes) or "none besides the learning rate"
            others = f", and the options {', '.join(self.options)}" if self.options else ""
            fix = f"{near(name, [*self.takes, *self.options])} it takes {known}{others}".strip()
            raise sr.errors.HyperparameterError(f"{self.name} has no hyperparameter {name!r}", fix=fix)
        wanted = _wanted(self.takes.get(name), value)
        if wanted:
            told = f"{name} of {self.name} is {worded(value)}, which is not {wanted}"
            raise sr.errors.HyperparameterError(told, fix=f"its default is {worded(self.takes[name])}")
        return None

    def _check_option(self, name: str, value: Any) -> None:
        """Refuse a value that the library would refuse."""
        wanted, fix = _wanted(self.options[name], value), f"its default is {worded(self.options[name])}"
        try:
            if not wanted:
                sr.optim.Options(**{name: value})
                return
        except sr.errors.StepruleError as error:
            wanted, fix = "allowed", error.fix
        raise sr.errors.HyperparameterError(f"{name} of {self.name} is {worded(value)}, which is not {wanted}", fix=fix)


def _wanted(default: Any, value: Any) -> str:
    """Return in words the kind that a value should have, or "" if it has that kind."""
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else "true or false"
    if isinstance(default, int | float):
        return "" if isinstance(value, int | float) and not isinstance(value, bool) else "a number"
    if isinstance(default, tuple):
        same = isinstance(value, tuple) and len(value) == len(default) and not any(_wanted(0.0, part) for part in value)
        return "" if same else f"{len(default)} numbers with commas between them"
    return ""


def worded(value: Any) -> str:
    """Return a hyperparameter's value as a user types it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return ",".join(map(worded, value)) if isinstance(value, tuple) else str(value)


@cache
def find(name: str) -> Kind:
    """Return the optimiser of a name. Refuse an unknown name with a list of the known ones."""
    if name in TITLES:
        return _kind(name, TITLES[name], getattr(sr.board, name))
    if name in VARIANTS:
        return _kind(name, *VARIANTS[name])
    if name in CLASSES:
        return _kind(name, CLASSES[name].__name__, CLASSES[name])
    parts = name.split("+")
    if not TRANSFORMS.keys().isdisjoint(parts):
        return _joined(name, parts)
    if not is_reference(name):
        told = f"{name!r} is none of {', '.join(NAMES)}"
        fix = "give one of these, or a rule of these with transforms (adam+cautious), "
        fix += "or module:Class or file.py:Class for another (torch.optim:AdamW)"
        raise sr.errors.StepruleError(told, fix=f"{_meant(name)} {fix}".strip())
    return _kind(name, name, load(name))


def _joined(name: str, parts: Sequence[str]) -> Kind:
    """Return the chain of transforms and a rule, in the order in which they are named."""
    kinds = {part: find(part) for part in parts if part not in TRANSFORMS}
    for part, kind in kinds.items():
        if not kind.is_rule:
            raise sr.errors.StepruleError(
                f"{name}: {part} is a class, and transforms are chained with rules",
                fix=f"name its rule, such as {name.replace(part, 'steprule.zoo.papers:lion')}",
            )
    chain = sr.chain(*(kinds[part].target if part in kinds else TRANSFORMS[part] for part in parts))
    return _kind(name, " + ".join(kinds[part].title if part in kinds else part for part in parts), chain)


def class_of(name: str) -> str:
    """Return the reference of torch's optimiser under a name that the board has taken, or ""."""
    found = next((one for one in sr.optim.__all__ if one.lower() == name), "") if name in TITLES else ""
    return f"steprule.optim:{found}" if found else ""


def _meant(name: str) -> str:
    asked = near(name, NAMES)
    torchs = class_of(name.lower())
    return f"{asked} (that is the board's; torch's is {torchs})" if torchs else asked


def _kind(name: str, title: str, target: Any) -> Kind:
    """Read an optimiser's signature."""
    if not (isinstance(target, _RULES) or callable(target)):
        raise sr.errors.StepruleError(f"{name} is no optimiser but {target!r}"[:200], fix=_BUILT)
    found, is_open = (_hyperparameters(target), False) if isinstance(target, _RULES) else _arguments(name, target)
    if "lr" not in found and not is_open:
        raise sr.errors.StepruleError(f"{name} takes no learning rate `lr`", where=str(target)[:200], fix=_BUILT)
    lr = found.get("lr")
    kind = Kind(name, title, target, {}, float(lr) if isinstance(lr, int | float) else None, is_open)
    hidden = _RESERVED | {field.name for field in _OPTIONS} if kind.is_ours else _RESERVED
    return replace(kind, takes={key: value for key, value in found.items() if key not in hidden})


_BUILT = "an optimiser is built as Class(parameters, lr=..., **hyperparameters), or is a rule of steprule's language"


def _hyperparameters(rule: Any) -> dict[str, Any]:
    """Return the hyperparameters of all a rule's variants with their defaults, and the choices of its own variants."""
    found = {key: hyper.value for key, hyper in rule.hypers.items()}
    for part in rule.parts:
        found |= {key: value for key, value in part.chosen.items() if key not in found and key not in _RESERVED}
    if isinstance(rule, _RULES[0]):
        for key, parameter in inspect.signature(rule).parameters.items():
            if parameter.kind is parameter.KEYWORD_ONLY and key in rule.part.hypers.keys() - found.keys() - _RESERVED:
                found[key] = rule.part.hypers[key].value
    return found


def _arguments(name: str, target: Any) -> tuple[dict[str, Any], bool]:
    """Return a callable's arguments with their defaults, and whether it takes any others."""
    try:
        parameters = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError) as error:
        raise sr.errors.StepruleError(f"{name} has no signature that could be read", fix=_BUILT) from error
    named = [part for part in parameters if part.kind not in {part.VAR_KEYWORD, part.VAR_POSITIONAL}][1:]
    ours = isinstance(target, type) and issubclass(target, sr.Optimizer)
    is_open = not ours and any(part.kind is part.VAR_KEYWORD for part in parameters)
    return {part.name: None if part.default is part.empty else part.default for part in named}, is_open
