"""Every option of torch.optim's classes, and the model and gradients on which both sides are run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.optim import lr_scheduler as schedulers

import steprule.optim as ours

CLASSES = ("SGD", "Adagrad", "RMSprop", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adadelta", "ASGD", "Rprop")
FUSED = ("SGD", "Adagrad", "Adam", "AdamW")  # those to which torch gives fused=
RTOL = {torch.float32: 1e-5, torch.float64: 1e-12}
FLOOR = 0.1  # atol / rtol: 1e-6 in float32, 1e-13 in float64

Schedule = Callable[[torch.optim.Optimizer], Any]

STEP: Schedule = lambda o: schedulers.StepLR(o, step_size=7, gamma=0.7)  # noqa: E731
EXPONENTIAL: Schedule = lambda o: schedulers.ExponentialLR(o, gamma=0.97)  # noqa: E731
COSINE: Schedule = lambda o: schedulers.CosineAnnealingLR(o, T_max=20)  # noqa: E731
RESTARTS: Schedule = lambda o: schedulers.CosineAnnealingWarmRestarts(o, T_0=9)  # noqa: E731
WARM_UP: Schedule = lambda o: schedulers.LambdaLR(o, lambda epoch: min(1.0, epoch / 10))  # noqa: E731
LINEAR: Schedule = lambda o: schedulers.LinearLR(o, start_factor=0.2, total_iters=30)  # noqa: E731
ONE_CYCLE: Schedule = lambda o: schedulers.OneCycleLR(o, max_lr=0.05, total_steps=60)  # noqa: E731
CYCLE: Schedule = lambda o: schedulers.CyclicLR(o, 0.001, 0.05, step_size_up=5, cycle_momentum=False)  # noqa: E731
PLATEAU: Schedule = lambda o: schedulers.ReduceLROnPlateau(o, factor=0.5, patience=3)  # noqa: E731


@dataclass(frozen=True)
class Case:
    """A class with its options; `other` is what the second group has instead."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    other: Mapping[str, Any] = field(default_factory=dict[str, Any])
    schedule: Schedule = STEP

    @property
    def told(self) -> str:
        """Spell the options."""
        first = ", ".join(f"{key}={_plain(value)}" for key, value in self.options.items()) or "defaults"
        second = ", ".join(f"{key}={_plain(value)}" for key, value in self.other.items())
        return f"{first} | {second}" if second else first


def _plain(value: Any) -> Any:
    return f"tensor({value.item():g})" if isinstance(value, torch.Tensor) else value


def _tensor_lr() -> torch.Tensor:
    return torch.tensor(0.03125)  # the same number in every dtype


CASES = [
    Case("SGD", {"lr": 0.1}, {"lr": 0.02}),
    Case("SGD", {"lr": 0.1, "weight_decay": 0.1}, {"momentum": 0.9}, EXPONENTIAL),
    Case("SGD", {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}, {"momentum": 0.5, "maximize": True}, ONE_CYCLE),
    Case("SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.3}, {"dampening": 0.9, "weight_decay": 0.1}, COSINE),
    Case("SGD", {"lr": 0.05, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1}, {"nesterov": False}, WARM_UP),
    Case("SGD", {"lr": 0.1, "maximize": True, "weight_decay": 0.1}, {"lr": 0.0, "maximize": False}, PLATEAU),
    Case("SGD", {"lr": _tensor_lr(), "momentum": 0.9}, {"lr": _tensor_lr(), "momentum": 0}, LINEAR),
    Case("Adagrad", {}, {"lr": 0.2}),
    Case("Adagrad", {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1}, {"lr_decay": 0.0}, EXPONENTIAL),
    Case("Adagrad", {"lr": 0.1, "initial_accumulator_value": 0.5, "eps": 1e-3}, {"eps": 0.1}, CYCLE),
    Case("Adagrad", {"lr": 0.1, "maximize": True, "weight_decay": 0.01}, {"maximize": False, "lr_decay": 0.2}, COSINE),
    Case("Adagrad", {"lr": _tensor_lr()}, {"lr": _tensor_lr(), "weight_decay": 0.3}, LINEAR),
    Case("RMSprop", {}, {"lr": 0.1}),
    Case("RMSprop", {"alpha": 0.8, "eps": 1e-3, "weight_decay": 0.1}, {"momentum": 0.9}, EXPONENTIAL),
    Case("RMSprop", {"centered": True, "weight_decay": 0.1}, {"centered": False, "alpha": 0.9}, WARM_UP),
    # α = 0.9, because at 0.99 the first steps are ten times as long, and float32 as much less exact
    Case(
        "RMSprop", {"momentum": 0.9, "alpha": 0.9, "weight_decay": 0.1}, {"momentum": 0.5, "centered": True}, ONE_CYCLE
    ),
    Case("RMSprop", {"centered": True, "momentum": 0.9, "alpha": 0.9}, {"momentum": 0, "weight_decay": 0.1}, RESTARTS),
    Case("RMSprop", {"maximize": True, "weight_decay": 0.1}, {"maximize": False, "eps": 1e-2}, PLATEAU),
    Case("RMSprop", {"lr": _tensor_lr(), "momentum": 0.9, "alpha": 0.9}, {"lr": _tensor_lr()}, COSINE),
    Case("Adam", {}, {"lr": 0.1}),
    Case("Adam", {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1}, {"amsgrad": True}, ONE_CYCLE),
    Case("Adam", {"amsgrad": True, "weight_decay": 0.1}, {"amsgrad": False, "betas": (0.0, 0.99)}, EXPONENTIAL),
    Case("Adam", {"decoupled_weight_decay": True, "weight_decay": 0.1}, {"lr": 0.05, "betas": (0.5, 0.5)}, WARM_UP),
    Case("Adam", {"decoupled_weight_decay": True, "amsgrad": True, "weight_decay": 0.3}, {"lr": 0.02}, RESTARTS),
    Case("Adam", {"maximize": True, "weight_decay": 0.1}, {"maximize": False, "amsgrad": True}, PLATEAU),
    Case("Adam", {"lr": _tensor_lr()}, {"lr": _tensor_lr(), "weight_decay": 0.1}, LINEAR),
    Case("AdamW", {}, {"lr": 0.1}),
    Case("AdamW", {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.5}, {"weight_decay": 0}, ONE_CYCLE),
    Case("AdamW", {"amsgrad": True, "weight_decay": 0.1}, {"amsgrad": False, "lr": 0.02}, COSINE),
    Case("AdamW", {"maximize": True, "weight_decay": 0.1}, {"maximize": False, "eps": 1e-2}, CYCLE),
    Case("AdamW", {"lr": _tensor_lr()}, {"lr": _tensor_lr(), "amsgrad": True}, LINEAR),
    Case("NAdam", {}, {"lr": 0.1}),
    Case("NAdam", {"betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1}, {"momentum_decay": 0.1}, EXPONENTIAL),
    Case("NAdam", {"decoupled_weight_decay": True, "weight_decay": 0.1}, {"momentum_decay": 0.0}, COSINE),
    Case("NAdam", {"maximize": True, "weight_decay": 0.1}, {"maximize": False, "betas": (0.5, 0.99)}, WARM_UP),
    Case("NAdam", {"lr": _tensor_lr(), "momentum_decay": 0.02}, {"lr": _tensor_lr(), "weight_decay": 0.1}, LINEAR),
    Case("RAdam", {}, {"lr": 0.1}),
    Case("RAdam", {"betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1}, {"betas": (0.9, 0.98)}, EXPONENTIAL),
    Case("RAdam", {"decoupled_weight_decay": True, "weight_decay": 0.1}, {"weight_decay": 0}, COSINE),
    Case("RAdam", {"maximize": True, "weight_decay": 0.1}, {"maximize": False, "eps": 1e-2}, PLATEAU),
    Case("RAdam", {"lr": _tensor_lr()}, {"lr": _tensor_lr(), "betas": (0.5, 0.7)}, LINEAR),
    Case("Adamax", {}, {"lr": 0.1}),
    Case("Adamax", {"betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1}, {"eps": 0.1}, EXPONENTIAL),
    Case("Adamax", {"maximize": True, "weight_decay": 0.1}, {"maximize": False, "betas": (0.0, 0.5)}, WARM_UP),
    Case("Adamax", {"lr": _tensor_lr()}, {"lr": _tensor_lr(), "weight_decay": 0.1}, LINEAR),
    Case("Adadelta", {}, {"lr": 0.1}),
    Case("Adadelta", {"rho": 0.5, "eps": 1e-3, "weight_decay": 0.1}, {"rho": 0.99}, EXPONENTIAL),
    Case("Adadelta", {"maximize": True, "weight_decay": 0.1}, {"maximize": False, "rho": 1.0}, COSINE),
    Case("Adadelta", {"rho": 0.0, "lr": 0.5}, {"eps": 1e-2}, WARM_UP),
    Case("Adadelta", {"lr": _tensor_lr()}, {"lr": _tensor_lr(), "weight_decay": 0.1}, LINEAR),
    Case("ASGD", {}, {"lr": 0.1}),
    Case("ASGD", {"lr": 0.1, "lambd": 0.01, "alpha": 0.5, "weight_decay": 0.1}, {"lambd": 0.1}, EXPONENTIAL),
    Case("ASGD", {"lr": 0.1, "t0": 5, "weight_decay": 0.01}, {"t0": 12, "alpha": 1.0}, COSINE),
    Case("ASGD", {"maximize": True, "weight_decay": 0.1, "t0": 3}, {"maximize": False, "t0": 0}, WARM_UP),
    Case("ASGD", {"lr": _tensor_lr(), "t0": 10}, {"lr": _tensor_lr(), "weight_decay": 0.1}, LINEAR),
    Case("Rprop", {}, {"lr": 0.1}),
    Case("Rprop", {"etas": (0.3, 1.5), "step_sizes": (1e-4, 0.1)}, {"etas": (0.9, 1.05)}, EXPONENTIAL),
    Case("Rprop", {"maximize": True, "step_sizes": (1e-3, 0.5)}, {"maximize": False}, COSINE),
    Case("Rprop", {"lr": _tensor_lr()}, {"lr": _tensor_lr(), "step_sizes": (0.01, 0.02)}, LINEAR),
]

# One case a rule: what a checkpoint has to know.
RULES = [
    Case("SGD", {"lr": 0.1, "weight_decay": 0.1}),
    Case("SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.3}, {"momentum": 0}),
    Case("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True}, {"nesterov": False}),
    Case("Adagrad", {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.5}),
    Case("RMSprop", {"weight_decay": 0.1}, {"momentum": 0.9}),
    Case("RMSprop", {"centered": True, "momentum": 0.9}, {"momentum": 0}),
    Case("Adam", {"weight_decay": 0.1}, {"amsgrad": True}),
    Case("AdamW", {"weight_decay": 0.1}, {"lr": 0.05}),
    Case("NAdam", {"weight_decay": 0.1}, {"momentum_decay": 0.1}),
    Case("RAdam", {"weight_decay": 0.1}, {"betas": (0.5, 0.7)}),
    Case("Adamax", {"weight_decay": 0.1}, {"eps": 0.1}),
    Case("Adadelta", {"weight_decay": 0.1}, {"rho": 0.5}),
    Case("ASGD", {"lr": 0.1, "lambd": 0.01, "t0": 3, "weight_decay": 0.1}, {"t0": 12}),
    Case("Rprop", {}, {"etas": (0.3, 1.5)}),
]


def named(case: Case) -> str:
    """Name a case in a test's id."""
    return f"{case.name}({case.told})"


def parameters(dtype: torch.dtype) -> list[torch.nn.Parameter]:
    """Make parameters of many forms: no dimension to four, empty, transposed, channels last."""
    fill = torch.Generator().manual_seed(7)
    shapes = [(), (0,), (7,), (3, 4), (2, 3, 4, 5), (2, 3, 4), (33,), (1,), (5, 3), (4,)]
    values = [torch.randn(shape, generator=fill, dtype=torch.float64).to(dtype) for shape in shapes]
    values[3] = values[3].t()
    values[4] = values[4].to(memory_format=torch.channels_last)
    return [torch.nn.Parameter(value) for value in values]


def fill(found: list[torch.nn.Parameter], step: int) -> None:
    """Give parameters the gradients of a step; some come late, some are missing now and then, one never comes."""
    random = torch.Generator().manual_seed(1000 + step)
    for index, parameter in enumerate(found):
        gradient = torch.randn(parameter.shape, generator=random, dtype=torch.float64).to(parameter.dtype)
        if step % 2 == 0:  # as autograd lays it out; else as a user may
            gradient = torch.empty_like(parameter.detach()).copy_(gradient)
        missing = (index in (2, 6) and step < 8) or (index == 8 and step % 3 == 1) or index == 9
        parameter.grad = None if missing else gradient


def grouped(found: list[torch.nn.Parameter], case: Case) -> list[dict[str, Any]]:
    """Sort parameters into the two groups of a case."""
    return [{"params": found[:5]}, {"params": found[5:], **_own(case.other)}]


def _own(options: Mapping[str, Any]) -> dict[str, Any]:
    """Copy options, tensors in the default dtype: with one of float32, torch computes some step sizes in float32."""
    default = torch.get_default_dtype()
    return {key: v.to(default, copy=True) if isinstance(v, torch.Tensor) else v for key, v in options.items()}


def make(case: Case, dtype: torch.dtype, **extra: Any) -> tuple[list[torch.nn.Parameter], Any]:
    """Make our optimiser of a case, on parameters of its own."""
    found = parameters(dtype)
    return found, getattr(ours, case.name)(grouped(found, case), **_own(case.options), **extra)


def make_twin(case: Case, dtype: torch.dtype, **extra: Any) -> tuple[list[torch.nn.Parameter], Any]:
    """Make torch's optimiser of a case: the reference loop, without foreach."""
    found = parameters(dtype)
    way = extra or {"foreach": False}
    return found, getattr(torch.optim, case.name)(grouped(found, case), **_own(case.options), **way)


def deviation(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return max |a − b| / (|b| + FLOOR), infinite where one is not finite and the other is."""
    a, b = a.detach().double().reshape(-1), b.detach().double().reshape(-1)
    same = (a == b) | (a.isnan() & b.isnan())
    off = torch.where(same, 0.0, (a - b).abs() / (b.abs() + FLOOR))
    return float(off.nan_to_num(nan=torch.inf).max()) if off.numel() else 0.0


def apart(own: Any, twin: Any) -> float:
    """Compare all parameters and state of two optimisers; return the largest deviation."""
    worst = 0.0
    for group, other in zip(own.param_groups, twin.param_groups, strict=True):
        assert float(group["lr"]) == float(other["lr"])
        for p, q in zip(group["params"], other["params"], strict=True):
            worst = max(worst, deviation(p, q))
            held, wanted = own.state.get(p, {}), twin.state.get(q, {})
            assert set(held) - {"started"} == set(wanted)
            for key, value in wanted.items():
                assert held[key].dtype == value.dtype, key
                assert held[key].shape == value.shape, key
                worst = max(worst, deviation(held[key], value))
    return worst
