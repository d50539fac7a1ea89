"""Optimisers of papers agree with the papers' formulas, written out here a second time, and keep their promises."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import steprule as sr
from steprule.errors import HyperparameterError
from steprule.zoo import papers

pytestmark = pytest.mark.cpu

State = dict[str, Any]
Group = dict[str, Any]

# The papers' formulas ------------------------------------------------------------------------------------
# Each takes one parameter, its gradient, its own state (empty at first) and its group, all in float64.


def averaged(state: State, key: str, beta: float, value: Tensor) -> Tensor:
    state[key] = beta * state.get(key, torch.zeros_like(value)) + (1 - beta) * value
    return state[key]


def lion(p: Tensor, g: Tensor, s: State, h: Group) -> Tensor:
    beta1, beta2 = h["betas"]
    c = beta1 * s.get("m", torch.zeros_like(g)) + (1 - beta1) * g
    averaged(s, "m", beta2, g)
    return p - h["lr"] * (torch.sign(c) + h["weight_decay"] * p)


def adabelief(p: Tensor, g: Tensor, s: State, h: Group) -> Tensor:
    beta1, beta2 = h["betas"]
    m = averaged(s, "m", beta1, g)
    s["s"] = averaged(s, "s", beta2, (g - m) ** 2) + h["eps"]
    m_hat, s_hat = m / (1 - beta1 ** s["t"]), s["s"] / (1 - beta2 ** s["t"])
    return p - h["lr"] * h["weight_decay"] * p - h["lr"] * m_hat / (s_hat.sqrt() + h["eps"])


def yogi(p: Tensor, g: Tensor, s: State, h: Group) -> Tensor:
    beta1, beta2 = h["betas"]
    g = g + h["weight_decay"] * p
    m = averaged(s, "m", beta1, g)
    v = s.get("v", torch.full_like(p, h["initial_accumulator"]))
    s["v"] = v - (1 - beta2) * torch.sign(v - g * g) * g * g
    return p - h["lr"] * m / (s["v"].sqrt() + h["eps"])


def adopt(p: Tensor, g: Tensor, s: State, h: Group) -> Tensor:
    beta1, beta2 = h["betas"]
    g = g if h["decouple"] else g + h["weight_decay"] * p
    if s["t"] == 1:
        s["v"] = g * g
        return p
    normed = g / s["v"].sqrt().clamp(min=h["eps"])
    if h["clipped"]:
        bound = (s["t"] - 1) ** 0.25
        normed = normed.clamp(-bound, bound)
    m = averaged(s, "m", beta1, normed)
    averaged(s, "v", beta2, g * g)
    return (p - h["lr"] * h["weight_decay"] * p if h["decouple"] else p) - h["lr"] * m


def ademamix(p: Tensor, g: Tensor, s: State, h: Group) -> Tensor:
    beta1, beta2, beta3 = h["betas"]
    t, alpha, slow = s["t"], h["alpha"], beta3
    if h["alpha_warmup"] is not None:
        alpha = min(t * alpha / h["alpha_warmup"], alpha)
    if h["beta3_warmup"] is not None and t < h["beta3_warmup"]:
        a, b, done = math.log(beta1), math.log(beta3), t / h["beta3_warmup"]
        slow = min(math.exp(a * b / ((1 - done) * b + done * a)), beta3)
    m1, m2, v = averaged(s, "m1", beta1, g), averaged(s, "m2", slow, g), averaged(s, "v", beta2, g * g)
    update = (m1 / (1 - beta1**t) + alpha * m2) / ((v / (1 - beta2**t)).sqrt() + h["eps"])
    return p - h["lr"] * (update + h["weight_decay"] * p)


def adan(p: Tensor, g: Tensor, s: State, h: Group) -> Tensor:
    beta1, beta2, beta3 = h["betas"]
    change = g - s.get("g", g)
    s["g"] = g
    m, v = averaged(s, "m", beta1, g), averaged(s, "v", beta2, change)
    n = averaged(s, "n", beta3, (g + beta2 * change) ** 2)
    m, v, n = (x / (1 - beta ** s["t"]) for x, beta in ((m, beta1), (v, beta2), (n, beta3)))
    eta = h["lr"] / (n.sqrt() + h["eps"])
    return (p - eta * (m + beta2 * v)) / (1 + h["lr"] * h["weight_decay"])


def lamb(p: Tensor, g: Tensor, s: State, h: Group) -> Tensor:
    beta1, beta2 = h["betas"]
    m, v = averaged(s, "m", beta1, g), averaged(s, "v", beta2, g * g)
    m, v = m / (1 - beta1 ** s["t"]), v / (1 - beta2 ** s["t"])
    u = m / (v.sqrt() + h["eps"]) + h["weight_decay"] * p
    ratio = p.norm() / u.norm() if p.norm() != 0 and u.norm() != 0 else 1.0
    return p - h["lr"] * ratio * u


def lars(p: Tensor, g: Tensor, s: State, h: Group) -> Tensor:
    local: Any = 1.0
    if p.norm() != 0 and g.norm() != 0:
        local = h["trust_coefficient"] * p.norm() / (g.norm() + h["weight_decay"] * p.norm())
    s["b"] = h["momentum"] * s.get("b", torch.zeros_like(p)) + h["lr"] * local * (g + h["weight_decay"] * p)
    return p - s["b"]


# Both side by side ---------------------------------------------------------------------------------------

Formula = Callable[[Tensor, Tensor, State, Group], Tensor]
Case = tuple[type[Any], Formula, Group, Group]
"""A class, its formula, and the hyperparameters of two groups; the second group's are added to the first's."""

LION: Case = sr.optim.Lion, lion, {"lr": 1e-2, "weight_decay": 0.1}, {"betas": (0.8, 0.95), "lr": 3e-3}
ADABELIEF: Case = (sr.optim.AdaBelief, adabelief, {"lr": 1e-2, "eps": 1e-8, "weight_decay": 0.1},
                   {"betas": (0.5, 0.9), "eps": 1e-4})  # fmt: skip
YOGI: Case = (sr.optim.Yogi, yogi, {"weight_decay": 0.1},
              {"betas": (0.5, 0.9), "eps": 1e-2, "initial_accumulator": 0.5})  # fmt: skip
ADOPT: Case = (sr.optim.ADOPT, adopt, {"lr": 1e-2, "weight_decay": 0.1, "betas": (0.9, 0.99)},
               {"betas": (0.5, 0.9), "eps": 0.1})  # fmt: skip
ADOPT_APART: Case = (sr.optim.ADOPT, adopt, {"lr": 1e-2, "weight_decay": 0.1, "decouple": True, "eps": 0.01},
                     {"clipped": False})  # fmt: skip
ADEMAMIX: Case = (sr.optim.AdEMAMix, ademamix, {"lr": 1e-2, "weight_decay": 0.1, "betas": (0.9, 0.99, 0.999)},
                  {"alpha": 5.0, "alpha_warmup": 20, "beta3_warmup": 12})  # fmt: skip
ADAN: Case = sr.optim.Adan, adan, {"lr": 1e-2, "weight_decay": 0.1}, {"betas": (0.5, 0.6, 0.7), "eps": 1e-3}
LAMB: Case = sr.optim.LAMB, lamb, {"lr": 1e-2, "weight_decay": 0.1}, {"betas": (0.5, 0.9), "weight_decay": 0.01}
LARS: Case = (sr.optim.LARS, lars, {"lr": 1.0, "weight_decay": 0.1, "trust_coefficient": 0.01},
              {"momentum": 0.5, "lr": 0.5})  # fmt: skip

CASES = [LION, ADABELIEF, YOGI, ADOPT, ADEMAMIX, ADAN, LAMB, LARS]
SHAPES = [(5,), (3, 4), (1, 7), (), (2, 3, 2), (300,)]
LATE, ZERO = 1, 2
"""Which parameters get their first gradient late, and start from zero."""


def name_of(value: Any) -> str:
    return value[0].__name__ if isinstance(value, tuple) else str(value).removeprefix("torch.")


def make(case: Case, dtype: torch.dtype = torch.float64, **options: Any) -> tuple[list[Any], Any]:
    torch.manual_seed(3)
    parameters = [torch.nn.Parameter(torch.randn(shape, dtype=torch.float64).to(dtype)) for shape in SHAPES]
    parameters[ZERO].data.zero_()
    groups = [{"params": parameters[:3]}, {"params": parameters[3:], **case[3]}]
    return parameters, case[0](groups, **case[2], **options)


def fill(parameters: list[Any], step: int, sign: float = 1.0) -> None:
    for index, p in enumerate(parameters):
        p.grad = (sign * torch.randn(p.shape, dtype=torch.float64) * (0.3 + 0.2 * index)).to(p.dtype)
        if index == LATE and step < 4:
            p.grad = None
        elif index != LATE and step == 9:
            p.grad.zero_()


def beside(case: Case, dtype: torch.dtype = torch.float64, **options: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Give every parameter as it is after each of thirty steps, and as the formula has it."""
    parameters, optimizer = make(case, dtype, **options)
    values = [p.detach().double() for p in parameters]
    states: list[State] = [{"t": 0} for _ in parameters]
    groups = [optimizer.param_groups[index // 3] for index in range(len(parameters))]
    torch.manual_seed(5)
    for step in range(30):
        fill(parameters, step)
        for index, p in enumerate(parameters):
            if p.grad is not None:
                states[index]["t"] += 1
                values[index] = case[1](values[index], p.grad.double(), states[index], groups[index])
        optimizer.step()
        yield from zip([p.detach().double() for p in parameters], values, strict=True)


@pytest.mark.parametrize(
    ("dtype", "backend", "close"),
    [(torch.float64, None, 1e-12), (torch.float32, None, 1e-5), (torch.float64, "eager", 1e-12)],
    ids=name_of,
)
@pytest.mark.parametrize("case", [*CASES, ADOPT_APART], ids=name_of)
def test_thirty_steps_are_the_formulas(case: Case, dtype: torch.dtype, backend: str | None, close: float) -> None:
    for ours, right in beside(case, dtype, backend=backend):
        torch.testing.assert_close(ours, right, rtol=close, atol=close)


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_a_zero_gradient_at_rate_zero_changes_nothing(case: Case) -> None:
    parameters, optimizer = make(case)
    rates = [group["lr"] for group in optimizer.param_groups]
    for steps in (0, 3):
        for step in range(steps):
            fill(parameters, step + 10)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            optimizer.step()
        if steps and case is LARS:
            return  # its buffer holds past learning rates and goes on
        before = [p.detach().clone() for p in parameters]
        for p in parameters:
            p.grad = torch.zeros_like(p)
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        optimizer.step()
        assert all(torch.equal(p, old) for p, old in zip(parameters, before, strict=True))
        assert all(slot.isfinite().all() for state in optimizer.state.values() for slot in state.values())


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_training_from_zero_gradients_stays_finite(case: Case) -> None:
    parameters, optimizer = make(case, torch.float32)
    for _ in range(3):
        for p in parameters:
            p.grad = torch.zeros_like(p)
        optimizer.step()
    assert all(p.isfinite().all() for p in parameters)
    assert all(slot.isfinite().all() for state in optimizer.state.values() for slot in state.values())


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_a_checkpoint_resumes_bit_for_bit(case: Case) -> None:
    parameters, optimizer = make(case)
    for step in range(6):
        fill(parameters, step)
        optimizer.step()
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    others, resumed = make(case)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    for p, other in zip(parameters, others, strict=True):
        other.data.copy_(p.detach())
    for both in ((parameters, optimizer), (others, resumed)):
        torch.manual_seed(7)
        for step in range(6, 12):
            fill(both[0], step)
            both[1].step()
    assert all(torch.equal(p, other) for p, other in zip(parameters, others, strict=True))


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_maximize_is_a_step_with_the_opposite_gradient(case: Case) -> None:
    ours, climbing = make(case, maximize=True, backend="eager")
    theirs, descending = make(case, backend="eager")
    for parameters, optimizer, sign in ((ours, climbing, 1.0), (theirs, descending, -1.0)):
        torch.manual_seed(5)
        for step in range(5):
            fill(parameters, step, sign)
            optimizer.step()
    assert all(torch.equal(p, other) for p, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_one_pass_suffices_unless_a_norm_comes_first(case: Case) -> None:
    assert len(sr.explain(make(case)[1]).passes) == (2 if case in (LAMB, LARS) else 1)


def test_a_class_is_its_rule_with_its_decay_and_clipping_before_it() -> None:
    ours, face = make((sr.optim.Lion, lion, {"lr": 1e-2, "weight_decay": 0.1}, {}), clip=1.0, backend="eager")
    theirs, _ = make(LION)
    written = sr.chain(sr.clip_global_norm(max_norm=1.0), sr.weight_decay(0.1), papers.lion)
    for parameters, optimizer in ((ours, face), (theirs, written.optimizer(theirs, lr=1e-2, backend="eager"))):
        torch.manual_seed(5)
        for step in range(5):
            fill(parameters, step)
            optimizer.step()
    assert all(torch.equal(p, other) for p, other in zip(ours, theirs, strict=True))


def test_hyperparameters_out_of_range_are_refused() -> None:
    p = torch.nn.Parameter(torch.ones(2))
    for make_one in (
        lambda: sr.optim.Lion([p], betas=(0.9, 1.1)),
        lambda: sr.optim.AdEMAMix([p], betas=(0.9, 0.999, 1.0)),
        lambda: sr.optim.AdEMAMix([p], alpha_warmup=-1),
        lambda: sr.optim.ADOPT([p], eps=0.0),
        lambda: sr.optim.Yogi([p], initial_accumulator=-1.0),
        lambda: sr.optim.LAMB([p], weight_decay=-0.1),
        lambda: sr.optim.LARS([p], lr=-1.0),
    ):
        with pytest.raises(HyperparameterError, match=r"help:"):
            make_one()


# What must be true by mathematics ------------------------------------------------------------------------


def stepped(cls: type[Any], start: Tensor, *gradients: Tensor, **options: Any) -> Tensor:
    p = torch.nn.Parameter(start.clone())
    optimizer = cls([p], **options)
    for gradient in gradients:
        p.grad = gradient.clone()
        optimizer.step()
    return p.detach()


START = torch.tensor([1.0, -2.0, 0.5, 4.0], dtype=torch.float64)
GRADIENT = torch.tensor([3.0, -0.1, 1e-3, -20.0], dtype=torch.float64)


def test_lion_moves_every_parameter_by_the_learning_rate() -> None:
    moved = stepped(sr.optim.Lion, START, GRADIENT, GRADIENT, lr=0.125)
    assert torch.equal(moved, START - 2 * 0.125 * GRADIENT.sign())


def test_lamb_moves_every_tensor_by_its_length_times_the_learning_rate() -> None:
    moved = stepped(sr.optim.LAMB, START, GRADIENT, lr=0.01)
    torch.testing.assert_close((moved - START).norm(), 0.01 * START.norm(), rtol=1e-12, atol=0)


def test_lars_does_not_depend_on_the_size_of_gradients() -> None:
    one, other = (stepped(sr.optim.LARS, START, k * GRADIENT, k * GRADIENT, lr=2.0) for k in (1.0, 1024.0))
    torch.testing.assert_close(one, other, rtol=1e-13, atol=0)


def test_the_first_step_of_adopt_only_measures() -> None:
    assert torch.equal(stepped(sr.optim.ADOPT, START, GRADIENT, weight_decay=0.5, decouple=True), START)
    second = stepped(sr.optim.ADOPT, START, GRADIENT, 100 * GRADIENT, lr=1.0, betas=(0.0, 0.9))
    torch.testing.assert_close(second, START - GRADIENT.sign(), rtol=1e-15, atol=0)  # clipped to (2−1)^¼ = 1


def test_ademamix_without_its_slow_average_is_adamw() -> None:
    options: Group = {"lr": 0.1, "betas": (0.9, 0.99, 0.9), "weight_decay": 0.1}
    ours = stepped(sr.optim.AdEMAMix, START, GRADIENT, -GRADIENT, GRADIENT, alpha=0.0, **options)
    theirs = stepped(torch.optim.AdamW, START, GRADIENT, -GRADIENT, GRADIENT, **options | {"betas": (0.9, 0.99)})
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=0)


def test_ademamix_warms_up_from_a_first_average_without_memory() -> None:
    options: Group = {"lr": 0.1, "betas": (0.0, 0.99, 0.9), "beta3_warmup": 4}
    assert stepped(sr.optim.AdEMAMix, START, GRADIENT, -GRADIENT, **options).isfinite().all()


def test_yogi_moves_its_second_moment_by_at_most_a_squared_gradient() -> None:
    p = torch.nn.Parameter(START.clone())
    optimizer = sr.optim.Yogi([p], initial_accumulator=1.0)
    p.grad = GRADIENT.clone()
    optimizer.step()
    change = optimizer.state[p]["exp_avg_sq"] - 1.0
    torch.testing.assert_close(change, 1e-3 * GRADIENT**2 * (GRADIENT**2 - 1).sign(), rtol=1e-6, atol=1e-15)


def test_adan_under_a_constant_gradient_steps_by_the_learning_rate() -> None:
    moved = stepped(sr.optim.Adan, START, *[GRADIENT] * 3, lr=0.1, eps=0.0)
    torch.testing.assert_close(moved, START - 0.3 * GRADIENT.sign(), rtol=1e-13, atol=0)


def test_adabelief_takes_large_steps_where_gradients_are_as_expected() -> None:
    """Under a constant gradient what is left of s fades, while Adam's second moment stays g²."""
    ours = stepped(sr.optim.AdaBelief, START, *[GRADIENT] * 20, lr=1e-3, betas=(0.5, 0.5))
    theirs = stepped(torch.optim.Adam, START, *[GRADIENT] * 20, lr=1e-3, betas=(0.5, 0.5))
    assert ((ours - START).abs() > (theirs - START).abs()).all()
