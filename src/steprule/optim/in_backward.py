"""Steps in the backward pass: each parameter is updated as soon as its gradient is there, which is then freed.

One optimiser keeps its groups, state and options; each parameter gets a binding of its own, so that a gradient costs
one launch whatever the number of parameters. What all tensors together decide must be known before the first is
written, so it is refused; what is only remembered of them, for the next step, is completed when the step ends.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from ..backends.base import conclude
from ..errors import ParameterError, RuleError
from ..graph.show import one_line
from ..plan.schedule import Plan
from ..rule import Formula
from .away import Away
from .binding import Binding
from .global_slots import check_common
from .shards import whole
from .surroundings import uncompiled
from .tensors import label

_AS_USUAL = "leave step_in_backward() out, and call step() after backward()"


class _Own:
    """The state of one parameter, as if an optimiser had no other."""

    def __init__(self, owner: Any, parameter: torch.Tensor) -> None:
        self._owner, self._parameter = owner, parameter

    def get(self, parameter: torch.Tensor, default: Any = None) -> Any:
        """Return the state of a parameter, if it has any."""
        return self._owner.state.get(parameter, default)

    def __getitem__(self, parameter: torch.Tensor) -> Any:
        return self._owner.state[parameter]

    def __contains__(self, parameter: object) -> bool:
        return parameter in self._owner.state

    def __len__(self) -> int:
        return int(self._parameter in self)

    def values(self) -> list[Any]:
        """List the parameter's state, if it has any."""
        return [self[self._parameter]] if self._parameter in self else []

    def pop(self, parameter: torch.Tensor, default: Any = None) -> Any:
        """Forget the state of a parameter."""
        return self._owner.state.pop(parameter, default)


class _Member:
    """One parameter, with its binding; `position` is its place among all of an optimiser's."""

    name: str
    position: int

    def __init__(self, owner: Any, parameter: torch.Tensor) -> None:
        self._owner, self.parameter = owner, parameter
        self._list, self.state = [parameter], _Own(owner, parameter)
        self.binding: Binding | None = None
        self.stepped = False

    def at(self, group: int, place: int, position: int) -> None:
        """Note where the parameter is now; draws depend on its position."""
        self._group, self.position = group, position
        self.name = label(self._owner.param_groups[group], group, place).strip("`")
        self._names, self.binding = [self.name], None

    @property
    def group(self) -> dict[str, Any]:
        """The group as it is now, with this parameter alone."""
        return {**self._owner.param_groups[self._group], "params": self._list, "param_names": self._names}


class InBackward:
    """What `step_in_backward` returns: it steps parameters in the backward pass, until it is removed.

    As a context manager it is removed at the end of the block.
    """

    def __init__(self, owner: Any) -> None:
        self._owner = owner
        self._members: dict[torch.Tensor, _Member] = {}
        self._handles: Any = WeakTensorKeyDictionary()
        self._listed: list[Any] = []
        self._begun = False
        self.bindings: list[Binding] = []
        """Those of the last step that has ended."""
        self.renew()
        self._check_replicas()
        self._look()
        # GradScaler then calls step() with its scale, which is refused in words.
        self._scaling = vars(owner).get("_step_supports_amp_scaling")
        owner._step_supports_amp_scaling = True  # noqa: SLF001

    def remove(self) -> None:
        """Step in `step()` again, from the next backward pass on; a second call does nothing."""
        if self._owner._in_backward is self:  # noqa: SLF001
            self.end()
            for handle in self._handles.values():
                handle.remove()
            self._owner._in_backward = None  # noqa: SLF001
            self._owner._step_supports_amp_scaling = bool(self._scaling)  # noqa: SLF001

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    # What may be stepped so ----------------------------------------------------------------------

    def renew(self) -> None:
        """Check what runs on every group, and bind each parameter anew at its next gradient."""
        self._check_points()
        for index, group in enumerate(self._owner.param_groups):
            refuse(self._owner._choose(group).plan, self._owner.clip, index, group["params"])  # noqa: SLF001
        for member in self._members.values():
            member.binding = None

    def _check_points(self) -> None:
        """Refuse a rule that evaluates a closure, of whichever group."""
        points = self._owner._points  # noqa: SLF001
        if points is not None and (refused := points.refused(self._owner)):
            raise refused

    def _check(self) -> None:
        """Check every group before the first tensor is written, as an ordinary step does."""
        owner = self._owner
        self._check_points()
        for index, group in enumerate(owner.param_groups):
            kernels = owner._choose(group)  # noqa: SLF001
            refuse(kernels.plan, owner.clip, index, group["params"])
            if not owner.capturable:  # then kernels read numbers where they are, and asking means waiting
                owner._check_numbers(kernels, group, f"group {index}")  # noqa: SLF001
        check_common(owner._choose, owner.param_groups)  # noqa: SLF001

    def _look(self) -> None:
        """Follow the lists of parameters, if they have changed since."""
        owner = self._owner
        listed = [[(id(p), p.requires_grad) for p in group["params"]] for group in owner.param_groups]
        if listed == self._listed:
            return
        before, self._members, position = self._members, {}, 0
        for i, group in enumerate(owner.param_groups):
            for j, parameter in enumerate(group["params"]):
                member = before.get(parameter) or _Member(owner, parameter)
                member.at(i, j, position)
                self._members[parameter], position = member, position + 1
                if parameter.requires_grad and parameter not in self._handles:
                    self._handles[parameter] = parameter.register_post_accumulate_grad_hook(self._hook())
        self._listed, self._asked = listed, False

    def _hook(self) -> Callable[[torch.Tensor], None]:
        """Return what torch calls when a gradient is there; it holds hooks where no garbage collector looks."""
        own = weakref.ref(self)

        def hook(parameter: torch.Tensor) -> None:
            alive = own()
            if alive is not None and alive._owner._in_backward is alive:  # noqa: SLF001
                alive._arrived(parameter)  # noqa: SLF001

        return hook

    def _check_replicas(self) -> None:
        """Refuse parameters of DistributedDataParallel, which may wrap a model after `step_in_backward`, too."""
        if _replicated({parameter for group in self._owner.param_groups for parameter in group["params"]}):
            raise ParameterError(
                "DistributedDataParallel averages gradients after step_in_backward() has used this process's own",
                where="  parameters belong to a DistributedDataParallel module",
                fix=f"shard the model with fully_shard, whose gradients come averaged; or {_AS_USUAL}",
            )

    # The backward pass ---------------------------------------------------------------------------

    def _arrived(self, parameter: torch.Tensor) -> None:
        """Step a parameter whose gradient has been accumulated, and free the gradient."""
        owner = self._owner
        with owner._busy:  # noqa: SLF001
            if owner._inside:  # noqa: SLF001
                raise owner._misplaced("backward(), which steps,")  # noqa: SLF001
            if not self._begun:
                self._begin()
            member = self._members.get(parameter)
            if member is None:  # it has been taken out of its group
                return
            if member.stepped:
                raise ParameterError(
                    f"`{member.name}` has been stepped, and has another gradient before the step has ended",
                    where="  with step_in_backward() every backward pass is a step of its own",
                    fix=f"call optimizer.step() after each backward(); to accumulate gradients, {_AS_USUAL}",
                )
            if parameter.grad is None:
                raise ParameterError(
                    f"`{member.name}` has no gradient any more when it is to be stepped",
                    where="  another hook has taken it, of another optimiser for instance",
                    fix="give each parameter to one optimiser that steps in the backward pass",
                )
            self._step(member)

    def _begin(self) -> None:
        """Check what an ordinary step would check before the first tensor is written."""
        self._look()
        self._check()
        if not self._asked:
            self._check_replicas()
        self._begun = self._asked = True

    def _step(self, member: _Member) -> None:
        owner, choose, groups = self._owner, self._owner._choose, [member.group]  # noqa: SLF001
        binding, member.binding = member.binding, None
        if binding is None or not binding.still_holds(choose, owner._mood(), groups, member.state):  # noqa: SLF001
            binding = owner._bound(choose, binding, groups, member.state, member.position)  # noqa: SLF001
        binding.step(groups, getattr(owner, "found_inf", None))
        member.binding = binding
        member.stepped, member.parameter.grad = True, None

    # The end of a step ---------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None) -> Any:
        """End a step: see `step_in_backward`."""
        owner, loss = self._owner, None
        if closure is not None:
            if owner._points is not None:  # noqa: SLF001
                raise RuleError(
                    f"`{owner._formulas()}` evaluates a closure away from its parameters, which backward() would step",  # noqa: SLF001
                    fix="call backward(), then step() without a closure",
                )
            with torch.enable_grad():
                loss = closure()
        with owner._busy:  # noqa: SLF001
            if owner._inside:  # noqa: SLF001
                raise owner._misplaced("step()")  # noqa: SLF001
            if getattr(owner, "grad_scale", None) is not None:
                raise ParameterError(
                    "GradScaler's scale came after the backward pass, whose scaled gradients have been used",
                    where="  parameters are not what they should be: load them again",
                    fix=f"train in bfloat16, which needs no GradScaler; or {_AS_USUAL}",
                )
            self._finish()
        return loss

    def _finish(self) -> None:
        """Step what has a gradient that no backward pass brought, and end the step."""
        self._look()
        left = [member for member in self._members.values() if member.parameter.grad is not None]
        for member in left:
            if member.stepped:
                raise ParameterError(
                    f"`{member.name}` has been stepped, and has got a gradient since",
                    where="  DistributedDataParallel, or a hook, has written it after the backward pass",
                    fix=_AS_USUAL,
                )
        if left and not self._begun:
            self._begin()
        for member in left:
            self._step(member)
        self.end()

    def end(self) -> None:
        """End a step, whatever it has come to: complete what is remembered of all tensors together."""
        stepped = [member for member in self._members.values() if member.stepped]
        if stepped or self._begun:
            self.bindings = [member.binding for member in stepped if member.binding is not None]
            for member in stepped:
                member.stepped = False
            self._begun = False
            conclude([batch for binding in self.bindings if binding.late for batch in binding.batches])


class Releasing(Away):
    """An optimiser that can step in the backward pass."""

    _in_backward: InBackward | None = None
    _binding: Binding | None

    def step_in_backward(self) -> InBackward:
        """Step each parameter in the backward pass, as soon as its gradient is there, and free the gradient at once.

        >>> import torch, steprule as sr
        >>> model = torch.nn.Linear(2, 1)
        >>> opt = sr.optim.AdamW(model.parameters(), lr=1e-3)
        >>> handle = opt.step_in_backward()
        >>> model(torch.ones(1, 2)).sum().backward()  # steps
        >>> opt.step()  # ends the step
        >>> model.weight.grad is None
        True

        So few gradients are in memory at a time. Bits are those of ordinary steps, but where sums over all tensors, or
        matrix functions, which are called one at a time, round otherwise. `step()` ends a step: hooks, schedulers and
        `gauges` find it there, and it steps what has a gradient set by hand. `zero_grad()` ends one
        that was broken off: parameters that had their gradients have been stepped, the others not.
        `handle.remove()` goes back to ordinary steps, which copies and pickles take.

        What must know all gradients before the first is used raises `RuleError`: `clip=1.0`, `nonfinite="skip"` or
        `"raise"`, rules with norms over all tensors. `clip_value`, `clip_norm` and `clip_last_global_norm` clip. A
        second gradient before `step()` (accumulation), DistributedDataParallel and GradScaler raise `ParameterError`.
        Parameters of `fully_shard` are stepped when their gradients have been reduced. Source: Pudipeddi et al.,
        Training Large Neural Networks with Constant Memory using a New Execution Algorithm, 2020.
        """
        with self._busy:
            if self._in_backward is not None:
                raise ParameterError(
                    "this optimiser steps in the backward pass already", fix="remove() its handle first"
                )
            self._in_backward = InBackward(self)
            return self._in_backward

    def _last_bindings(self) -> list[Binding]:
        """List the bindings of the last step."""
        return list(filter(None, [self._binding])) if self._in_backward is None else self._in_backward.bindings

    @uncompiled
    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear gradients as torch does; end a step that a backward pass has begun and nobody ended."""
        super().zero_grad(set_to_none)
        if self._in_backward is not None:
            self._in_backward.end()


def refuse(plan: Plan, clip: Formula | float | None, group: int, parameters: Sequence[torch.Tensor]) -> None:
    """Raise `RuleError` for a plan in which elements wait for what all tensors together decide."""
    graph, where = plan.graph, f"  group {group}; step_in_backward() writes each tensor when its gradient is there"
    if plan.guard is not None:
        raise RuleError(
            "a guard against NaN and infinity looks at all gradients before the first tensor is written",
            where=where,
            fix='optimizer.nonfinite = "propagate"; the gauge "nonfinite" of watch=True counts such elements',
        )
    if graph.uses_loss:
        raise RuleError(
            f"`{graph.name}` needs the loss, which nobody tells a backward pass", where=where, fix=_AS_USUAL
        )
    if plan.awaited:
        told = f"`{graph.name}` needs {one_line(plan.awaited[0], graph)} before it writes the first tensor"
        raise RuleError(told, where=where, fix=_instead(clip))
    if plan.needed and not all(map(whole, parameters)):
        told = f"`{graph.name}` needs {one_line(plan.needed[0], graph)} of DTensors, whose parts other processes have"
        raise RuleError(told, where=where, fix=_AS_USUAL)


def _instead(clip: Formula | float | None) -> str:
    """Return the lines that clip without knowing all gradients, if clipping is what was asked for."""
    if not isinstance(clip, Formula) or clip.name != "clip_global_norm":
        return f"clip by sr.clip_norm or sr.clip_last_global_norm in place of a global norm; or {_AS_USUAL}"
    bound = f"max_norm={clip.hypers['max_norm'].value:g}"
    return "\n".join([
        f"optimizer.clip = sr.clip_norm({bound})  # each tensor, by its own norm",
        f"      optimizer.clip = sr.clip_last_global_norm({bound})  # all of them, by the norm of the step before",
    ])  # fmt: skip


def _replicated(parameters: set[torch.Tensor]) -> bool:
    """Whether DistributedDataParallel has any of these parameters: nothing in a parameter tells."""
    own = torch.distributed
    return own.is_available() and own.is_initialized() and any(_held(parameters))


def _held(parameters: set[torch.Tensor]) -> Iterator[bool]:
    kind = torch.nn.parallel.DistributedDataParallel
    for module in [found for found in gc.get_objects() if issubclass(type(found), kind)]:
        yield any(parameter in parameters for parameter in module.parameters())


__all__ = ["InBackward", "Releasing"]
