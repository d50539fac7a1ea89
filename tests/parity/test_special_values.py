"""NaN, infinities, denormals, huge numbers: where torch's loop stays finite, so do we, and what it spoils, we spoil."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from cases import CLASSES

import steprule.optim as ours
from steprule.zoo import board

pytestmark = [pytest.mark.cpu, pytest.mark.parity]

KINDS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"weight_decay": 0.1}),
    ("SGD", {"momentum": 0.9, "dampening": 0.3}),
    ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("Adagrad", {"lr_decay": 0.1}),
    ("Adagrad", {"maximize": True, "weight_decay": 0.1}),
    ("RMSprop", {}),
    ("RMSprop", {"momentum": 0.9, "weight_decay": 0.1}),
    ("RMSprop", {"centered": True, "weight_decay": 0.1}),
    ("RMSprop", {"centered": True, "momentum": 0.9, "alpha": 0.4}),
    ("Adam", {}),
    ("Adam", {"betas": (0.0, 0.99), "amsgrad": True}),
    ("Adam", {"betas": (0.5, 0.5), "weight_decay": 0.1, "lr": 1.0}),
    ("Adam", {"maximize": True, "weight_decay": 0.1}),
    ("AdamW", {}),
    ("AdamW", {"amsgrad": True, "weight_decay": 0.1}),
    ("NAdam", {"lr": 1.0}),
    ("NAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("RAdam", {}),
    ("RAdam", {"betas": (0.5, 0.7), "weight_decay": 0.1}),
    ("Adamax", {}),
    ("Adamax", {"betas": (0.0, 0.5), "weight_decay": 0.1}),
    ("Adadelta", {}),
    ("Adadelta", {"rho": 0.0, "weight_decay": 0.1}),
    ("ASGD", {}),
    ("ASGD", {"t0": 1, "weight_decay": 0.1, "lambd": 0.1}),
    ("Rprop", {}),
    ("Rprop", {"maximize": True, "etas": (0.3, 1.5)}),
]
WIDE = {torch.float32: 1e-5, torch.float64: 1e-12}
NARROW = [torch.bfloat16, torch.float16]
POWERS = [1e-45, 1e-42, 1e-38, 1e-30, 1e-20, 1e-10, 1.0, 1e10, 1.7e19, 1.9e19, 3e19, 1e20, 5e20, 1e21, 1e30, 1e38, 3e38]
MORE = {
    torch.float64: [1e-310, 1e-200, 1e150, 1.3e154, 1.4e154, 1e155, 1e160, 1e300, 1.7e308],
    torch.float16: [6e-8, 1e-6, 1e-5, 1e-3, 100.0, 250.0, 260.0, 300.0, 1e3, 7e3, 1e4, 6e4],
}
every_kind = pytest.mark.parametrize(("name", "options"), KINDS, ids=lambda item: str(item))


def special(dtype: torch.dtype) -> torch.Tensor:
    """Return NaN, both infinities, and numbers of both signs from the smallest to the greatest."""
    sizes = torch.tensor([*POWERS, *MORE.get(dtype, [])], dtype=torch.float64).to(dtype)
    sizes = sizes[sizes.isfinite()]
    return torch.cat([torch.tensor([torch.nan, torch.inf, -torch.inf], dtype=dtype), sizes, -sizes])


def courses(dtype: torch.dtype) -> Iterator[list[torch.Tensor]]:
    """Give courses of gradients in which the special ones come first, late, again and again, or turn."""
    bad = special(dtype)
    plain = torch.full_like(bad, 0.5)
    yield [bad, plain, plain, -plain]
    yield [plain, bad, plain, plain, -plain]
    yield [bad, bad, -bad, plain]


def walked(module: Any, name: str, gradients: list[torch.Tensor], **options: Any) -> list[dict[str, torch.Tensor]]:
    """Return the parameter and the state of every step."""
    start = torch.linspace(-1, 2, gradients[0].numel(), dtype=torch.float64)
    p = torch.nn.Parameter(start.to(gradients[0].dtype))
    optimizer = getattr(module, name)([p], **options)
    seen: list[dict[str, torch.Tensor]] = []
    for gradient in gradients:
        p.grad = gradient.clone()
        optimizer.step()
        arrays = {key: value for key, value in optimizer.state[p].items() if value.shape == p.shape}
        seen.append({key: value.detach().double() for key, value in {"parameter": p, **arrays}.items()})
    return seen


def test_every_class_is_in_the_table() -> None:
    assert {name for name, _ in KINDS} == set(CLASSES)


@pytest.mark.parametrize("backend", [None, "eager"])
@pytest.mark.parametrize("default_dtype", [*WIDE], ids=str, indirect=True)
@every_kind
def test_special_gradients_leave_what_torchs_loop_leaves(
    name: str, options: dict[str, Any], default_dtype: torch.dtype, backend: str | None
) -> None:
    """The same numbers, NaN and infinities, in parameters and in state, at that step and at those that follow."""
    for gradients in courses(default_dtype):
        own = walked(ours, name, gradients, backend=backend, **options)
        twin = walked(torch.optim, name, gradients, foreach=False, **options)
        reached: dict[str, torch.Tensor] = {}
        for mine, wanted in zip(own, twin, strict=True):
            for key, value in wanted.items():
                finite = value.isfinite()
                same = (mine[key] == value) | (mine[key].isnan() & value.isnan())
                assert torch.equal(same | finite, torch.ones_like(finite)), key
                # What was once huge has been rounded as what is huge is.
                reached[key] = torch.maximum(value.abs().nan_to_num(0, 0, 0), reached.get(key, torch.tensor(0.1)))
                assert ((mine[key] - value).abs() <= WIDE[default_dtype] * reached[key])[finite].all(), key


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@every_kind
def test_narrow_parameters_stay_finite_where_torchs_loop_does(
    name: str, options: dict[str, Any], dtype: torch.dtype
) -> None:
    """torch rounds every operation to the narrow type and so meets infinities that we do not; never the reverse."""
    for gradients in courses(dtype):
        own = walked(ours, name, gradients, **options)
        twin = walked(torch.optim, name, gradients, foreach=False, **options)
        for mine, wanted in zip(own, twin, strict=True):
            for key, value in wanted.items():
                assert mine[key].isfinite()[value.isfinite()].all(), key


@pytest.mark.parametrize(
    ("make", "backend"),
    [(ours.Yogi, None), *((make, "eager") for make in (ours.Yogi, ours.AdaBelief, ours.LAMB, board.rmsprop.optimizer))],
)
def test_a_weighed_square_is_finite_where_the_bare_one_is_not(make: Any, backend: str | None) -> None:
    """(1−β)g², whoever writes it: the square alone would be infinite from 1.85e19 on, and the state with it."""
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = make([p], backend=backend)
    for gradient in ([1.9e19, 5e19, 1e20], [1.0, 1.0, 1.0]):
        p.grad = torch.tensor(gradient)
        optimizer.step()
    assert all(value.isfinite().all() for value in (p, *optimizer.state[p].values()))
