"""The arms: one step of a rule, by us, by torch in each of its ways, and by the roofline kernel."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import import_module
from inspect import signature
from typing import Any

import torch

import steprule as sr
from steprule.bench.graphs import GraphedUnit, ReducedUnit
from steprule.bench.precision import FLOAT32, Precision
from steprule.bench.roofline import roofline
from steprule.bench.rules import GLOBAL_NORM, NO_CLIP, TENSOR_NORM, VALUE, TimedRule
from steprule.bench.units import Gradients, Tensors, Unit
from steprule.bench.workloads import Workload
from steprule.bench.xla import missing as missing_optax
from steprule.bench.xla import optax_unit

OURS, LOOP, FOREACH, FUSED, SCALED = "steprule", "torch loop", "torch foreach", "torch fused", "torch grad_scale"
COMPILED, OPTAX, ROOFLINE = "torch.compile", "optax", "roofline"
COPY = "copy"
GRAPHED, FUSED_GRAPHED, REDUCED = "steprule graphed", "torch fused graphed", "torch.compile reduce-overhead"
WIDE, FUSED_WIDE = "steprule, float32 state", "torch fused float32"
STOCHASTIC, STOCHASTIC_WIDE = "steprule stochastic", "steprule stochastic, float32 state"
COMPENSATED = "steprule compensated, float32 state"
STORAGE: dict[str, dict[str, Any]] = {
    WIDE: {"state": "float32"},
    STOCHASTIC: {"rounding": "stochastic"},
    STOCHASTIC_WIDE: {"rounding": "stochastic", "state": "float32"},
    COMPENSATED: {"rounding": "compensated", "state": "float32"},
}
"""Ours with 16-bit parameters; the arm without options rounds to the nearest and keeps state as torch does."""
OWN = (OURS, GRAPHED, *STORAGE)
PEERS = (LOOP, FOREACH, FUSED, FUSED_GRAPHED, SCALED, FUSED_WIDE, COMPILED, REDUCED, OPTAX)
COMPILERS = {COMPILED, REDUCED}
"""Arms that compile for long."""
ARMS = (OURS, LOOP, FOREACH, FUSED, SCALED, COMPILED, OPTAX, ROOFLINE)
ON_HALF = (OURS, *STORAGE, LOOP, FOREACH, FUSED, SCALED, FUSED_WIDE, ROOFLINE)
ON_GPU = (OURS, GRAPHED, FOREACH, FUSED, SCALED, FUSED_GRAPHED, COMPILED, REDUCED, COPY)
MOST_COPIES = 2
"""Working sets up to which it is tried: it compiles for each."""
MOST_COMPILED = 60
"""Tensors up to which `torch.compile` is tried: half a minute; its time grows with their number."""


# Ours -------------------------------------------------------------------------------------------------


def ours(rule: TimedRule, clip: str, tensors: Tensors, **storage: Any) -> Unit:
    """Return the step of our class, clipping and update in one kernel."""
    return Unit(rule.make(list(tensors.parameters), clip, tensors.bound, **storage).step, tensors.parameters)


@lru_cache(maxsize=64)
def passes(rule: TimedRule, clip: str, precision: Precision = FLOAT32, arm: str = OURS) -> Sequence[dict[str, Any]]:
    """Return the walks over memory that our kernel makes for a rule behind a clipping."""
    one: list[torch.Tensor] = [torch.nn.Parameter(torch.zeros(1, dtype=precision.dtype))]
    return sr.explain(rule.make(one, clip, **STORAGE.get(arm, {}))).passes


def graphed(rule: TimedRule, clip: str, tensors: Tensors) -> Unit:
    """Return the step of our class as a CUDA graph."""
    return GraphedUnit(ours(rule, clip, tensors, **_capturable(rule.ours_class, tensors)))


def _capturable(optimizer: Callable[..., Any], tensors: Tensors) -> dict[str, bool]:
    """Return what lets a graph hold a step; in main memory, and where a class needs nothing, that is nothing."""
    return {"capturable": True} if tensors.device.type == "cuda" and _named(optimizer, "capturable") else {}


def _named(optimizer: Callable[..., Any] | None, argument: str) -> bool:
    return optimizer is not None and argument in signature(optimizer).parameters


def same_bytes(rule: TimedRule, clip: str, tensors: Tensors) -> Unit:
    """Return a step that moves the bytes of ours and computes nothing."""
    step = roofline(passes(rule, clip, tensors.precision)).optimizer(tensors.parameters).step
    return Unit(step, tensors.parameters)


def copy(rule: TimedRule, clip: str, tensors: Tensors) -> Unit:
    """Return torch's copy of one flat tensor into another: half of the bytes of ours read, half written."""
    moved = sum(item["bytes_per_parameter"] for item in passes(rule, clip, tensors.precision))
    size = moved * sum(parameter.numel() for parameter in tensors.parameters) // 2
    here = torch.zeros(size, dtype=torch.uint8, device=tensors.device)
    there = torch.empty_like(here)
    return Unit(lambda: there.copy_(here), tensors.parameters)


# torch ------------------------------------------------------------------------------------------------


def clipping(
    clip: str, parameters: list[torch.nn.Parameter], bound: float, *, loop: bool = False
) -> Callable[[], object]:
    """Return torch's clipping in its quickest way; a `loop` over tensors is how one clips each by its own norm."""
    utils = torch.nn.utils
    if clip == GLOBAL_NORM:
        return lambda: utils.clip_grad_norm_(parameters, bound)
    if clip == VALUE:
        return lambda: utils.clip_grad_value_(parameters, bound)
    if clip == TENSOR_NORM:
        one_by_one = lambda: [utils.clip_grad_norm_([parameter], bound) for parameter in parameters]  # noqa: E731
        return one_by_one if loop else lambda: _clip_each(parameters, bound)
    return lambda: None


def _clip_each(parameters: list[torch.nn.Parameter], bound: float) -> None:
    """Shorten each gradient to the greatest norm, with torch's operations on lists of tensors."""
    several: Any = torch
    gradients = [parameter.grad for parameter in parameters]
    norms = torch.stack(several._foreach_norm(gradients))  # noqa: SLF001
    several._foreach_mul_(gradients, (bound / (norms + 1e-6)).clamp_(max=1.0).unbind())


def _torch(rule: TimedRule, parameters: list[torch.nn.Parameter], **how: Any) -> torch.optim.Optimizer:
    assert rule.torch_class is not None
    return rule.torch_class(parameters, **{"lr": rule.lr, **rule.options, **how})


def _clip_then_step(rule: TimedRule, clip: str, tensors: Tensors, **how: Any) -> Unit:
    optimizer = _torch(rule, tensors.parameters, **how)
    if clip == NO_CLIP:
        return Unit(optimizer.step, tensors.parameters)
    shorten = clipping(clip, tensors.parameters, tensors.bound, loop="foreach" in how and not how["foreach"])

    def step() -> None:
        shorten()
        optimizer.step()

    return Unit(step, tensors.parameters)


def loop(rule: TimedRule, clip: str, tensors: Tensors) -> Unit:
    """Return torch's default on a CPU: a Python loop over the tensors."""
    return _clip_then_step(rule, clip, tensors, foreach=False)


def foreach(rule: TimedRule, clip: str, tensors: Tensors) -> Unit:
    """Return torch's operations on lists of tensors."""
    return _clip_then_step(rule, clip, tensors, foreach=True)


def fused(rule: TimedRule, clip: str, tensors: Tensors) -> Unit:
    """Return torch's fused kernels, one a tensor."""
    return _clip_then_step(rule, clip, tensors, fused=True)


def fused_graphed(rule: TimedRule, clip: str, tensors: Tensors) -> Unit:
    """Return torch's fused kernels as a CUDA graph; where torch allows it, the rate can be changed afterwards."""
    how = _capturable(rule.torch_class or torch.optim.SGD, tensors)
    lr = {"lr": torch.tensor(rule.lr, device=tensors.device)} if how else {}
    return GraphedUnit(_clip_then_step(rule, clip, tensors, fused=True, **how, **lr))


class _Widened(Unit):
    """Float32 parameters of its own, with float32 gradients."""

    def prepare(self, gradients: Gradients) -> Any:
        """Return the gradients in float32."""
        return [gradient.float() for gradient in gradients]


def fused_wide(rule: TimedRule, clip: str, tensors: Tensors) -> Unit:
    """Return torch's fused kernels on float32 copies: what 16 bits must be worth."""
    wide = tensors.widened()
    return _Widened(_clip_then_step(rule, clip, wide, fused=True).step, wide.parameters)


def grad_scale(rule: TimedRule, clip: str, tensors: Tensors) -> Unit:  # noqa: ARG001
    """Return torch's fused kernels that divide by a scale, which here is how far the norm is too long.

    The attribute is GradScaler's. `found_inf`, its companion, costs time and is not needed without one.
    """
    own: Any = _torch(rule, tensors.parameters, fused=True)
    utils, bound = torch.nn.utils, tensors.bound

    def step() -> None:
        norm = utils.get_total_norm([parameter.grad for parameter in tensors.parameters])
        own.grad_scale = torch.clamp(norm / bound, min=1.0).float()
        own.step()

    return Unit(step, tensors.parameters)


def compiled(rule: TimedRule, clip: str, tensors: Tensors, **how: Any) -> Unit:
    """Return clipping and step under `torch.compile`; the rate is a tensor, so that changing it compiles nothing."""
    logging.getLogger("torch._dynamo").setLevel(logging.ERROR)  # it warns of torch.optim's own profiler record
    optimizer = _torch(rule, tensors.parameters, **_when_compiled(rule, tensors.device))
    shorten = clipping(clip, tensors.parameters, tensors.bound)

    @torch.compile(dynamic=False, **how)
    def step() -> None:
        shorten()
        optimizer.step()

    return Unit(step, tensors.parameters)


def reduced(rule: TimedRule, clip: str, tensors: Tensors) -> Unit:
    """Return the compiled step as graphs of torch's own making."""
    return ReducedUnit(compiled(rule, clip, tensors, mode="reduce-overhead").step, tensors.parameters)


def _when_compiled(rule: TimedRule, device: torch.device) -> dict[str, Any]:
    """Return the options with which torch.compile makes the fewest kernels, and none for a new rate."""
    if device.type == "cpu":
        return {"foreach": False, "lr": torch.tensor(rule.lr)}
    if not _named(rule.torch_class, "capturable"):
        return {"foreach": True}  # torch refuses a rate on the device here
    return {"foreach": True, "capturable": True, "lr": torch.tensor(rule.lr, device=device)}


def forget() -> None:
    """Clear the compilers' caches of finished arms."""
    if "torch._dynamo" in sys.modules:
        sys.modules["torch._dynamo"].reset()


# Who takes part ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Conditions:
    """The conditions of a case, by which an arm can take part or not."""

    rule: TimedRule
    clip: str
    workload: Workload
    threads: int
    cores: int
    quick: bool = False
    device: str = "cpu"
    copies: int = 1
    rehearsed: bool = False


def applies(name: str, rule: TimedRule, clip: str) -> bool:
    """Whether an arm makes sense for a rule and clipping at all."""
    return name != SCALED or (clip == GLOBAL_NORM and rule.fused)


def missing(name: str, conditions: Conditions) -> str | None:
    """Return why an arm cannot take part, if so."""
    if name in {OURS, ROOFLINE, COPY, *STORAGE}:
        return None
    if name == GRAPHED:
        able = _named(conditions.rule.ours_class, "capturable")
        return None if able else f"steprule's {conditions.rule.ours} has no capturable, as torch's has none"
    if name == OPTAX:
        return missing_optax(conditions.rule, conditions.threads, conditions.cores)
    if conditions.rule.torch is None:
        return f"torch.optim has no {conditions.rule.name}"
    if name in {FUSED, FUSED_WIDE, FUSED_GRAPHED, SCALED} and not _has_fused(conditions):
        return f"torch has no fused {conditions.rule.torch} on a {'CPU' if conditions.device == 'cpu' else 'GPU'}"
    if name == SCALED and not hasattr(torch.nn.utils, "get_total_norm"):
        return f"torch {torch.__version__} has no get_total_norm"
    return _not_compiled(conditions) if name in COMPILERS else None


def _has_fused(conditions: Conditions) -> bool:
    """Whether torch has a fused kernel: its table of operations knows which are there on a CPU only."""
    rule = conditions.rule
    if conditions.device == "cpu" or not rule.fused or not torch.cuda.is_available():
        return rule.fused
    dispatcher: Any = import_module("torch._C")
    return dispatcher._dispatch_has_kernel_for_dispatch_key(f"aten::_fused_{rule.torch}_".lower(), "CUDA")  # noqa: SLF001


def _not_compiled(conditions: Conditions) -> str | None:
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if conditions.device == "cpu" and shutil.which(compiler) is None:
        return f"torch.compile needs a C++ compiler, and there is no {compiler}"
    if conditions.rehearsed:
        return "left out of a rehearsal: it compiles for half a minute"
    if conditions.quick:
        return "left out by --quick: it compiles for half a minute"
    if conditions.workload.tensors > MOST_COMPILED:
        return f"it would compile for minutes at {conditions.workload.tensors} tensors"
    if conditions.copies > MOST_COPIES:
        return f"it would compile for each of {conditions.copies} working sets"
    return None


def build(name: str, rule: TimedRule, clip: str, tensors: Tensors) -> Unit:
    """Return one working set of an arm."""
    if name == OPTAX:
        return optax_unit(rule, clip, tensors.parameters)
    return BUILDERS[name](rule, clip, tensors)


BUILDERS: dict[str, Callable[[TimedRule, str, Tensors], Unit]] = {
    OURS: ours,
    **{name: partial(ours, **storage) for name, storage in STORAGE.items()},
    LOOP: loop,
    FOREACH: foreach,
    FUSED: fused,
    FUSED_WIDE: fused_wide,
    SCALED: grad_scale,
    COMPILED: compiled,
    REDUCED: reduced,
    GRAPHED: graphed,
    FUSED_GRAPHED: fused_graphed,
    ROOFLINE: same_bytes,
    COPY: copy,
}
