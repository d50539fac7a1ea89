"""torch.optim's classes: their arguments, groups and state keys around a rule of the zoo.

`TorchOptimizer` chooses, for each param group, which rule its flags ask for, and puts the transforms before it in
torch's order: unscale (mixed precision), clip, maximise, weight decay. Groups whose flags agree share one
kernel; what the flags do not decide is a number, read at every step.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypedDict, TypeVar

import torch

from ..backends import BACKENDS
from ..errors import HyperparameterError
from ..graph.graph import LOSS, Hyper
from ..graph.node import Rank
from ..plan.schedule import schedule
from ..rule import Formula, Rule, Transform, chain
from ..zoo.transforms import (
    cautious_weight_decay,
    coupled_weight_decay,
    decoupled_weight_decay,
    maximize,
    unscale,
)
from .compiled import Fits, Kernels, Reader
from .cut import cut_of
from .documented import OPTIONS, described
from .groups import RULE, check_keys
from .optimizer import Optimizer
from .options import Options, State
from .prepared import check_slots, seen, storable
from .settings import OnDevice, plain

C = TypeVar("C", bound=type)
Flags = tuple[Any, ...]
Instead = tuple[tuple[Fits, Rule], ...]
Number = float | torch.Tensor
"""A hyperparameter: a number, or a tensor of one element."""


class Own(TypedDict, total=False):
    """Our classes' options, beside torch's arguments; `steprule.Optimizer` explains each."""

    clip: Formula | float | None
    nonfinite: str
    backend: str | None
    compensated: bool
    rounding: str
    state: State
    seed: int
    watch: bool | Sequence[str] | None


class TorchOptimizer(Optimizer):
    """An optimiser with torch.optim's face; a class gives its rule, or `_rule_of`, and says where its numbers stand."""

    _formula: ClassVar[Rule]
    """The rule of a class whose flags ask for no other."""
    _flat_formula: ClassVar[Rule | None] = None
    """That of tensors of fewer than two dimensions, if it is another one."""
    _parts_of: ClassVar[Mapping[str, tuple[str, int]]] = {"beta1": ("betas", 0), "beta2": ("betas", 1)}
    """Hyperparameters that are one part of a tuple in the group."""
    _inits: ClassVar[Mapping[str, str]] = {}
    """Slots that start from a hyperparameter of the group."""
    _decoupled: ClassVar[bool] = False
    _fixed: ClassVar[Mapping[str, Any]] = {}
    """Keys of groups besides the arguments."""
    _others: ClassVar[Mapping[str, Rule]] = {}
    """Rules that a group may name, in place of the class's own."""
    _meanings: ClassVar[Mapping[str, str]] = {}
    """Meanings of arguments that differ from those in other classes."""

    def __init__(
        self,
        params: Iterable[Any],
        defaults: dict[str, Any],
        *,
        clip: Formula | float | None = None,
        nonfinite: str = "propagate",
        backend: str | None = None,
        compensated: bool = False,
        rounding: str = "nearest",
        state: State = None,
        seed: int = 0,
        watch: bool | Sequence[str] | None = None,
    ) -> None:
        capturable = bool(defaults.get("capturable"))
        options = Options(clip, nonfinite, backend, compensated, rounding, state, seed, watch, capturable)
        self._make(params, options, defaults)
        self._step_supports_amp_scaling = any(group.get("fused") for group in self.param_groups)

    def _defaults(self, given: dict[str, Any]) -> dict[str, Any]:
        return given

    def _defaults_of(self, group: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        return self.defaults

    def _look(self, groups: Iterable[Mapping[str, Any]] = ()) -> None:
        """Do nothing: no class of torch's looks ahead."""

    @property
    def program(self) -> Formula:
        """The formula that runs on the first group; `steprule.explain` shows those of all."""
        return self._choose(self.param_groups[0]).formula

    def _rule_in(self, group: Mapping[str, Any]) -> Formula:
        return self._rule_of(group)

    def _rule_of(self, group: Mapping[str, Any]) -> Rule:  # noqa: ARG002
        """Return the rule that a group's flags choose."""
        return self._formula

    def _check_keys(self, group: dict[str, Any], which: str) -> None:
        if group.get(RULE) not in (None, *self._others):
            raise HyperparameterError(
                f"groups of {self._title(group)} have no rules of their own"
                + (", but for " if self._others else "")
                + ", ".join(map(repr, self._others)),
                where=f"  {which}: {RULE}={group[RULE]!r}",
                fix="use steprule.Optimizer(groups, rule), which steps each group by its rule",
            )
        clip = self._options.clip
        own = clip.hypers if isinstance(clip, Formula) else {}
        known = self._defaults_of(group)
        others = {name: key for name, (key, _) in self._parts_of.items() if key in known}
        check_keys(group, which, self._title(group), {**known, **own}, others, capturable=self.capturable)
        for name in self._inits.values():
            Hyper(name, low=0).check(plain(group[name]), f"{self._title(group)}, {which}")

    def _check_group(self, group: dict[str, Any], which: str) -> None:
        clip = self._options.clip
        self._chain(self._flags(group))  # raises first for a value that is no clipping
        own = clip.hypers.values() if isinstance(clip, Formula) else ()
        for name in (hyper.name for hyper in own if not hyper.shared):
            if name in self.defaults or self._parts_of.get(name, ("",))[0] in self.defaults:
                raise HyperparameterError(
                    f"`{name}` of the clipping is a word of {self._title(group)} itself, whose groups say what it is",
                    where=f"  clip={clip!r}",
                    fix="give that argument of the transform another name",
                )
        super()._check_group(group, which)

    # Programs ------------------------------------------------------------------------------------

    def _install(self, options: Options) -> None:
        self._options = options
        self._points = None
        self._by_flags: dict[Flags, Kernels] = {}
        rule = getattr(type(self), "_formula", None)
        self._together = rule is not None and bool(rule.graph.global_slots)

    def _of_clip(self, group: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """Return nothing: what the clipping takes is read from it, unless a group has a number of its own."""
        return {}

    def _flags(self, group: Mapping[str, Any]) -> Flags:
        """Return the facts that decide a group's formula: its rule, and the transforms before it."""
        scaled = getattr(self, "grad_scale", None) is not None
        rule = self._rule_of(group)
        decay = None if "weight_decay" in rule.hypers else self._decay_of(group)  # a rule may have one of its own
        others = self._instead(group)
        return rule, bool(group.get("maximize")), decay, scaled, torch.get_default_dtype(), others

    def _instead(self, group: Mapping[str, Any]) -> Instead:  # noqa: ARG002
        """Return the rules of tensors of some shapes in place of a group's; the first that fits counts."""
        return () if self._flat_formula is None else ((is_flat, self._flat_formula),)

    def _decay_of(self, group: Mapping[str, Any]) -> Transform | None:
        """Return the decay that a group asks for: like torch, none at 0, since 0·θ would spread what is not finite."""
        if "weight_decay" not in self.defaults or not (_decays(group) or self._some_decay()):
            return None
        if group.get("cautious_decay") and "cautious_decay" in self.defaults:
            return cautious_weight_decay
        told = "decoupled_weight_decay" in self.defaults
        decoupled = bool(group.get("decoupled_weight_decay", self._decoupled)) if told else self._decoupled
        return decoupled_weight_decay if decoupled else coupled_weight_decay

    def _mood(self) -> object:
        """Return the facts that decide about all groups: a pending loss scale is another one at every step."""
        return torch.get_default_dtype() if getattr(self, "grad_scale", None) is None else object()

    def _some_decay(self) -> bool:
        """Whether all groups decay because one does: so they have one formula, and one number for all tensors."""
        return self._together and any(map(_decays, self.param_groups))

    def _choose(self, group: dict[str, Any]) -> Kernels:
        flags = self._flags(group)
        if flags not in self._by_flags:
            self._by_flags[flags] = self._kernels_for(flags)
        return self._by_flags[flags].apart(cut_of(group))

    def _chain(self, flags: Flags) -> Formula:
        rule, maximise, decay, scaled, *_ = flags
        before = [unscale] if scaled else []
        before += [self._options.clip] if isinstance(self._options.clip, Formula) else []
        before += [maximize] if maximise else []
        own = [rule] if decay is None else [rule, decay] if decay.part.moves == "update" else [decay, rule]
        program = storable(chain(*before, *own), self._options)
        beside = [*(other for _, other in self._instead(self.defaults)), *self._others.values()]
        every = [rule.graph for rule in (self._rule_of(self.defaults), *beside)] if beside else []
        check_slots([program.graph, *every], self._options)
        return program

    def _kernels_for(self, flags: Flags) -> Kernels:
        program, default, others = self._chain(flags), *flags[-2:]
        # torch keeps step counts and the like in float32, unless everything is float64.
        host = torch.float64 if default == torch.float64 else torch.float32
        readers = tuple(self._reader(hyper.name) for hyper in program.graph.hypers)
        inits = {slot: self._reader(name) for slot, name in self._inits.items()}
        plan = schedule(seen(program.graph, self._options), guarded=self._options.guarded)
        own = tuple((fits, self._kernels_for((rule, *flags[1:-1], ()))) for fits, rule in others)
        return Kernels(program, plan, readers, self._options, host, inits, own)

    def _reader(self, name: str) -> Reader:
        if name in self._parts_of:
            key, place = self._parts_of[name]
            return lambda group: part_of(group, key, place)
        if name == "inverse_scale":
            return lambda _: self._inverse_scale()
        if name == LOSS.name:
            return super()._reader(name)
        clip = self._options.clip
        own = clip.hypers.get(name) if isinstance(clip, Formula) else None
        return lambda group: group.get(name, None if own is None else own.value)

    def _title(self, group: Mapping[str, Any]) -> str:  # noqa: ARG002
        return type(self).__name__

    # The step ------------------------------------------------------------------------------------

    def _step(self, closure: Callable[[], Any] | None = None, *, loss: Any = None) -> Any:
        found = getattr(self, "found_inf", None)
        # GradScaler's protocol: this step's gradients overflowed. What is on a GPU, kernels look at.
        if self._in_backward is None and found is not None and self._on_host(found) and float(found) > 0:
            self._skipped += 1
            return None
        return super()._step(closure, loss=loss)

    def _on_host(self, number: torch.Tensor) -> bool:
        return number.device.type == "cpu" and not (self.backend and BACKENDS[self.backend].decides)

    def _inverse_scale(self) -> float | OnDevice:
        scale: torch.Tensor = self.grad_scale  # type: ignore[attr-defined]
        return 1.0 / float(scale) if self._on_host(scale) else OnDevice(1.0 / scale.double())

    _kept: ClassVar[tuple[str, ...]] = ("_step_supports_amp_scaling",)

    # Checkpoints ---------------------------------------------------------------------------------

    def _complete(self, kernels: Kernels, state: Mapping[str, Any]) -> Mapping[str, Any]:
        """Complete one parameter's saved state with slots that torch does not keep; some tools save {} for no state."""
        known = {slot.name for slot in kernels.plan.graph.slots if slot.rank is Rank.HOST}
        missing = [name for name in self._hidden if name in known and not _number(state.get(name))]
        return {**state, **{name: torch.tensor(self._hidden[name], dtype=kernels.host_dtype, device="cpu")
                            for name in missing}}  # fmt: skip


def declared(cls: C) -> C:
    """Make a class of its signature alone: its arguments, but for our options, are the defaults of every group."""

    def begin(self: Any, given: inspect.BoundArguments) -> None:
        given.apply_defaults()
        _, params, *rest = given.arguments.items()
        own, defaults = ({name: value for name, value in rest if (name in OPTIONS) is ours} for ours in (True, False))
        TorchOptimizer.__init__(self, params[1], defaults | dict(self._fixed), **own)

    return described(cls, begin)


def _decays(group: Mapping[str, Any]) -> bool:
    return plain(group.get("weight_decay", 0)) != 0


def _number(value: Any) -> bool:
    return isinstance(value, torch.Tensor | int | float)


def is_flat(shape: Sequence[int]) -> bool:
    """Whether a tensor has fewer than two dimensions."""
    return len(shape) < 2


def part_of(group: Mapping[str, Any], key: str, place: int) -> Any:
    """Return one number of a tuple in a group, or text for anything else, so that an error names it."""
    try:
        return group[key][place]
    except (KeyError, IndexError, TypeError):
        return f"{key}={group.get(key)!r}"


__all__ = ["Own", "TorchOptimizer"]
