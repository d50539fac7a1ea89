"""The board's first line of Nesterov momentum: the gradient at θₜ itself, where the step ends, found by iteration."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from truth import bits

import steprule as sr
from steprule import board, hyper, rule
from steprule.errors import ConvergenceError, HyperparameterError, NonFiniteError

pytestmark = pytest.mark.cpu

IMPLICIT = board.nesterov(look_ahead="implicit")
LR, BETA = 0.2, 0.8


class Quadratic:
    """½ θᵀAθ − bᵀθ over a vector, a matrix and a number; A is random, its greatest eigenvalue given."""

    def __init__(
        self, program: Any = IMPLICIT, *, top: float = 15.0, dtype: Any = torch.float64, **options: Any
    ) -> None:
        random = torch.Generator().manual_seed(3)
        root = torch.randn(14, 14, generator=random, dtype=torch.float64)
        a = root @ root.T
        self.a = a / torch.linalg.eigvalsh(a)[-1] * top
        self.b = torch.randn(14, generator=random, dtype=torch.float64)
        start = torch.randn(14, generator=random, dtype=torch.float64)
        parts = (start[:5], start[5:13].reshape(2, 4), start[13])
        self.parameters = [torch.nn.Parameter(part.clone().to(dtype)) for part in parts]
        self.optimizer = sr.Optimizer(self.parameters, program, **{"lr": LR, "beta": BETA} | options)
        self.seen: list[torch.Tensor] = []

    def flat(self, tensors: Any = None) -> torch.Tensor:
        return torch.cat([t.detach().reshape(-1).double() for t in tensors or self.parameters])

    def m(self) -> torch.Tensor:
        return self.flat([self.optimizer.state[p]["m"] for p in self.parameters])

    def loss(self) -> torch.Tensor:
        x = torch.cat([p.reshape(-1) for p in self.parameters])
        self.seen.append(x.detach().double())
        self.optimizer.zero_grad()
        value = 0.5 * x @ self.a.to(x.dtype) @ x - self.b.to(x.dtype) @ x
        value.backward()
        return value.detach()


def solved(run: Quadratic, x: torch.Tensor, m: torch.Tensor, eta: Any, beta: float) -> torch.Tensor:
    """Return m = (I + (1−β)Aη)⁻¹ ((1−β)(Aθ − b) + βm₋)."""
    rates = torch.as_tensor(eta, dtype=torch.float64).expand(14)
    left = torch.eye(14, dtype=torch.float64) + (1 - beta) * run.a * rates
    return torch.linalg.solve(left, (1 - beta) * (run.a @ x - run.b) + beta * m)


@pytest.mark.parametrize("backend", [None, "eager"])
def test_steps_are_the_closed_form_of_a_quadratic(backend: str | None) -> None:
    """Many steps on three tensors to 1e-12, while η and β change; the closure's last value is returned."""
    run = Quadratic(backend=backend)
    x, m = run.flat(), torch.zeros(14, dtype=torch.float64)
    for step in range(25):
        lr, beta = LR / (1 + step % 3), BETA if step % 2 else 0.9
        run.optimizer.param_groups[0].update(lr=lr, beta=beta)
        told = run.optimizer.step(run.loss)
        m = solved(run, x, m, lr, beta)
        x = x - lr * m
        torch.testing.assert_close(run.m(), m, rtol=0, atol=1e-12)
        torch.testing.assert_close(run.flat(), x, rtol=0, atol=1e-12)
        torch.testing.assert_close(told, 0.5 * x @ run.a @ x - run.b @ x, rtol=1e-11, atol=1e-11)
    assert set(run.optimizer.state[run.parameters[0]]) == {"m"}


def test_groups_have_their_own_rates_and_one_iteration() -> None:
    run = Quadratic()
    groups = [{"params": run.parameters[:1], "lr": 0.3}, {"params": run.parameters[1:], "lr": 0.05, "tolerance": 0.0}]
    run.optimizer = IMPLICIT.optimizer(groups, beta=BETA)
    x, m = run.flat(), torch.zeros(14, dtype=torch.float64)
    rates = torch.tensor([0.3] * 5 + [0.05] * 9, dtype=torch.float64)
    for _ in range(8):
        run.optimizer.step(run.loss)
        m = solved(run, x, m, rates, BETA)
        x = x - rates * m
    torch.testing.assert_close(run.m(), m, rtol=0, atol=1e-12)
    torch.testing.assert_close(run.flat(), x, rtol=0, atol=1e-12)


def test_the_first_evaluation_is_where_the_explicit_method_looks() -> None:
    run = Quadratic()
    for _ in range(3):
        x, m = run.flat(), run.m() if run.optimizer.state else torch.zeros(14, dtype=torch.float64)
        run.seen.clear()
        run.optimizer.step(run.loss)
        torch.testing.assert_close(run.seen[0], x - LR * BETA * m, rtol=1e-14, atol=1e-15)
        torch.testing.assert_close(run.seen[-1], run.flat(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("clip", [sr.clip_global_norm(max_norm=0.5), board.clip_norm], ids=str)
def test_what_stands_before_the_rule_acts_on_the_gradient_at_the_end(clip: Any) -> None:
    run = Quadratic(sr.chain(clip, IMPLICIT))
    for _ in range(4):
        x, m = run.flat(), run.m() if run.optimizer.state else torch.zeros(14, dtype=torch.float64)
        run.optimizer.step(run.loss)
        g = run.a @ run.flat() - run.b
        bound = 1.0 if clip is board.clip_norm else min(1.0, 0.5 / (float(g.norm()) + 1e-6)) * float(g.norm())
        expected = (1 - BETA) * g / g.norm() * bound + BETA * m
        torch.testing.assert_close(run.m(), expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(run.flat(), x - LR * expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", [None, "triton_gpu"])
def test_float32_reaches_what_it_can_by_default(backend: str | None) -> None:
    if backend:
        pytest.importorskip("triton")
    run = Quadratic(dtype=torch.float32, backend=backend)
    x, m = run.flat(), torch.zeros(14, dtype=torch.float64)
    for _ in range(3 if backend else 20):
        run.optimizer.step(run.loss)
        m = solved(run, x, m, LR, BETA)
        x = x - LR * m
    torch.testing.assert_close(run.flat(), x, rtol=0, atol=2e-5)
    assert len(run.seen) < 40 * (3 if backend else 20)


def test_a_network_in_float32_is_trained() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.Tanh(), torch.nn.Linear(12, 1))
    inputs = torch.randn(40, 6)
    labels = inputs[:, :1].sin()
    optimizer = IMPLICIT.optimizer(model.parameters(), lr=0.5, clip=1.0)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(inputs), labels)
        loss.backward()
        return loss.detach()

    losses = [float(optimizer.step(closure)) for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_parameters_may_be_compensated(dtype: Any) -> None:
    run = Quadratic(dtype=dtype, top=4.0, compensated=True)
    for _ in range(3):
        run.optimizer.step(run.loss)
    assert all(run.optimizer.state[p]["remainder"].any() for p in run.parameters)


def test_a_point_is_found_from_what_a_parameter_and_its_remainder_are_together() -> None:
    """1 and a remainder of nearly half of the last bit, less a step that alone would be rounded away."""
    parameter = torch.nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    optimizer = IMPLICIT.optimizer([parameter], lr=1.25e-3, beta=0.8, compensated=True)
    seen = []

    def closure() -> torch.Tensor:
        parameter.grad = torch.ones_like(parameter)
        seen.append(float(parameter.detach()[0]))
        return parameter.detach().sum()

    optimizer.step(closure)
    optimizer.state[parameter]["remainder"].fill_(-32000)
    optimizer.state[parameter]["m"].fill_(1.0)
    parameter.data.fill_(1.0)
    seen.clear()
    optimizer.step(closure)
    assert seen[0] == 1 - 2.0**-8


def failed(run: Quadratic, closure: Callable[[], Any], kind: type[BaseException], match: str | None) -> None:
    """Assert that a step raises, and that parameters, state and gradients are what they were."""
    for p in run.parameters:
        p.grad = torch.full_like(p, 7.0)
    held, before = [p.grad for p in run.parameters], bits(run.optimizer)
    with pytest.raises(kind, match=match):
        run.optimizer.step(closure)
    assert bits(run.optimizer) == before
    assert all(p.grad is g for p, g in zip(run.parameters, held, strict=True))
    assert all(bool((p.grad == 7.0).all()) for p in run.parameters)


@pytest.mark.parametrize("stepped", [0, 2])
def test_an_iteration_that_does_not_contract_is_told_and_leaves_no_trace(stepped: int) -> None:
    """η(1−β)L just above 1, and far above: at the first step no state is left, either."""
    for top in (1.02 / (LR * (1 - BETA)), 1e3, 1e200):
        run = Quadratic()
        for _ in range(stepped):
            run.optimizer.step(run.loss)
        run.a = run.a * top / 15.0
        failed(run, run.loss, ConvergenceError, r"does not contract; nothing was updated")
        assert len(run.optimizer.state) == (3 if stepped else 0)


def test_an_iteration_that_takes_too_long_is_told() -> None:
    run = Quadratic(IMPLICIT(max_eval=4), top=20.0)
    failed(run, run.loss, ConvergenceError, r"not found in 4 evaluations")
    assert len(run.seen) == 4
    run.optimizer.param_groups[0]["tolerance"] = 0.9
    run.optimizer.step(run.loss)


def test_a_closure_that_is_another_at_every_call_is_told() -> None:
    run = Quadratic()
    noise = torch.Generator().manual_seed(0)

    def closure() -> None:
        run.loss()
        for p in run.parameters:
            p.grad += torch.randn(p.shape, generator=noise, dtype=p.dtype)

    failed(run, closure, ConvergenceError, r"no dropout")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, KeyError])
def test_a_closure_that_raises_leaves_no_trace(kind: type[BaseException]) -> None:
    run = Quadratic()

    def closure() -> None:
        run.loss()
        if len(run.seen) == 3:
            raise kind

    failed(run, closure, kind, None)
    assert not run.optimizer.state


def test_without_a_closure_it_is_refused_with_the_two_ways_that_need_none() -> None:
    run = Quadratic()
    for p in run.parameters:
        p.grad = torch.ones_like(p)
    before = bits(run.optimizer)
    with pytest.raises(HyperparameterError, match=r'look_ahead="momentum" or look_ahead="board", which need none'):
        run.optimizer.step()
    assert bits(run.optimizer) == before
    assert not run.optimizer.state


@pytest.mark.parametrize("nonfinite", ["propagate", "skip", "raise"])
def test_a_gradient_that_is_nan_at_once_is_treated_as_by_every_rule(nonfinite: str) -> None:
    run = Quadratic(nonfinite=nonfinite)
    before = run.flat()

    def closure() -> None:
        run.loss()
        run.parameters[0].grad[2] = torch.nan

    if nonfinite == "raise":
        with pytest.raises(NonFiniteError):
            run.optimizer.step(closure)
    else:
        run.optimizer.step(closure)
    assert len(run.seen) == 1
    spoiled = run.flat().isnan().nonzero().reshape(-1).tolist()
    assert spoiled == ([2] if nonfinite == "propagate" else [])
    assert nonfinite == "propagate" or (torch.equal(run.flat(), before) and not run.optimizer.state)


def test_a_gradient_that_is_nan_on_the_way_ends_the_iteration() -> None:
    run = Quadratic()

    def closure() -> None:
        run.loss()
        run.parameters[0].grad.mul_(torch.nan if len(run.seen) == 2 else 1.0)

    failed(run, closure, ConvergenceError, "does not contract")


def test_parameters_without_gradients_are_left_alone() -> None:
    run = Quadratic()
    alone = torch.nn.Parameter(torch.ones(3))
    run.optimizer.add_param_group({"params": [alone]})
    for _ in range(2):
        run.optimizer.step(run.loss)
    assert torch.equal(alone, torch.ones(3))
    assert alone not in run.optimizer.state


def test_at_iterate_and_checkpoints_have_nothing_to_move() -> None:
    run, again = Quadratic(), Quadratic()
    run.optimizer.step(run.loss)
    with run.optimizer.at_iterate():
        inside = run.flat()
    assert torch.equal(inside, run.flat())
    for own, other in zip(run.parameters, again.parameters, strict=True):
        other.data.copy_(own.detach())
    again.optimizer.load_state_dict(run.optimizer.state_dict())
    for one in (run, again):
        one.optimizer.step(one.loss)
    assert torch.equal(run.flat(), again.flat())


def test_it_reads_as_on_the_board() -> None:
    told = sr.explain(IMPLICIT)
    assert told.formula.splitlines() == ["g = ∇L(θₜ)", "mₜ = (1 − β) g + β mₜ₋₁", "θₜ = θₜ₋₁ − η mₜ"]
    assert told.equations[0] == r"g = \nabla L\left(\theta_{t}\right)"
    assert r"g &= \nabla L\left(\theta_{t}\right)" in told.latex


def test_tolerance_and_max_eval_are_the_implicit_variants_own() -> None:
    assert sorted(board.nesterov.hypers) == ["beta", "lr"]
    assert IMPLICIT.hypers["tolerance"].interval() == "[0, ∞)"
    assert IMPLICIT.hypers["max_eval"].interval() == "[1, ∞)"
    for wrong in ({"tolerance": -1.0}, {"max_eval": 0}):
        with pytest.raises(HyperparameterError, match="outside its legal range"):
            IMPLICIT(**wrong)
    with pytest.raises(HyperparameterError, match="`tolerance` of `nesterov` belongs to its variant 'implicit'"):
        board.nesterov(tolerance=1e-6)
    assert pickle.loads(pickle.dumps(IMPLICIT(max_eval=9))).hypers["max_eval"].value == 9  # noqa: S301
    assert pickle.loads(pickle.dumps(board.nesterov(lr=0.3))).hypers["lr"].value == 0.3  # noqa: S301
    assert IMPLICIT(look_ahead="momentum").hypers.keys() == board.nesterov.hypers.keys()


def test_any_rule_may_be_implicit() -> None:
    """Backward Euler: θₜ = θₜ₋₁ − η∇L(θₜ), so that (I + ηA)θₜ = θₜ₋₁ + ηb."""

    @rule(evaluate_at=lambda new_theta: new_theta)
    def backward_euler(
        theta: Any, g: Any, *, lr: Any = 0.1, tolerance: Any = hyper(0.0, low=0), max_eval: Any = hyper(400, low=1)
    ) -> Any:
        return theta - lr * g

    run = Quadratic(top=5.0)
    run.optimizer = backward_euler.optimizer(run.parameters, backend="eager")
    x = run.flat()
    for _ in range(5):
        run.optimizer.step(run.loss)
        x = torch.linalg.solve(torch.eye(14, dtype=torch.float64) + 0.1 * run.a, x + 0.1 * run.b)
    torch.testing.assert_close(run.flat(), x, rtol=0, atol=1e-12)

    @rule(evaluate_at=lambda new_theta: new_theta)
    def endless(theta: Any, g: Any, *, lr: Any = 0.1) -> Any:
        return theta - lr * g

    with pytest.raises(HyperparameterError, match="does not say how near is near enough"):
        endless.optimizer(run.parameters)
