"""What the whiteboard's methods must do by mathematics, not by another library's output; in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import steprule as sr

pytestmark = pytest.mark.cpu

EIGENVALUES = torch.tensor([0.05, 0.3, 1.0, 2.5], dtype=torch.float64)
MU, L = 0.05, 2.5
KAPPA = L / MU


def _trajectory(rule: Any, steps: int, *, closure: bool = False, **hyper: float) -> np.ndarray:
    """Minimise ½ θᵀAθ, A diagonal; return θ_0 … θ_steps (the iterate, wherever the gradient was taken)."""
    theta = torch.nn.Parameter(torch.tensor([1.0, -0.7, 0.4, 0.9], dtype=torch.float64))
    optimizer = rule.optimizer([theta], **hyper)
    points = [theta.detach().clone().numpy()]

    def loss() -> torch.Tensor:
        value = 0.5 * (EIGENVALUES * theta * theta).sum()
        optimizer.zero_grad()
        value.backward()
        return value

    for _ in range(steps):
        if closure:
            optimizer.step(loss)
        else:
            loss()
            optimizer.step()
        with optimizer.at_iterate():
            points.append(theta.detach().clone().numpy())
    return np.array(points)


def _rates(points: np.ndarray, order: int, at: int = 12) -> np.ndarray:
    """Measure each coordinate's asymptotic rate: the largest root of the recurrence its sequence obeys."""
    rates = []
    for x in points.T:
        window = x[at : at + 2 * order + 6]
        rows = np.array([window[i : i + order] for i in range(len(window) - order)])
        coefficients, *_ = np.linalg.lstsq(rows / np.abs(rows).max(), window[order:] / np.abs(rows).max(), rcond=None)
        rates.append(np.abs(np.roots([1.0, *(-coefficients[::-1])])).max())
    return np.array(rates)


def _radius(matrix: Callable[[float], list[list[float]]]) -> np.ndarray:
    return np.array([np.abs(np.linalg.eigvals(np.array(matrix(float(lam))))).max() for lam in EIGENVALUES])


@pytest.mark.parametrize("lr", [0.1, 0.5, 2 / (MU + L)])
def test_gradient_descent_contracts_by_one_minus_eta_lambda(lr: float) -> None:
    measured = _rates(_trajectory(sr.board.gd, 40, lr=lr), order=1)
    assert np.allclose(measured, np.abs(1 - lr * EIGENVALUES.numpy()), rtol=0, atol=1e-6)


def test_gradient_descent_at_its_best_step_reaches_the_classical_rate() -> None:
    measured = _rates(_trajectory(sr.board.gd, 40, lr=2 / (MU + L)), order=1)
    assert abs(measured.max() - (KAPPA - 1) / (KAPPA + 1)) < 1e-6


@pytest.mark.parametrize(("lr", "beta"), [(0.3, 0.5), (1.0, 0.9), (2.0, 0.8)])
def test_momentum_contracts_by_the_spectral_radius(lr: float, beta: float) -> None:
    measured = _rates(_trajectory(sr.board.momentum, 40, lr=lr, beta=beta), order=2)

    def matrix(lam: float) -> list[list[float]]:
        return [[1 - lr * (1 - beta) * lam, -lr * beta], [(1 - beta) * lam, beta]]

    assert np.allclose(measured, _radius(matrix), rtol=0, atol=1e-6)


def test_momentum_at_its_best_setting_reaches_the_heavy_ball_rate() -> None:
    """The best β is ((√κ−1)/(√κ+1))²; there two roots meet, where measuring is ill-conditioned: go just beside."""
    best = (np.sqrt(KAPPA) - 1) / (np.sqrt(KAPPA) + 1)
    beta = best**2 * (1 + 1e-3)
    lr = 4 / (np.sqrt(L) + np.sqrt(MU)) ** 2 / (1 - beta)
    measured = _rates(_trajectory(sr.board.momentum, 60, lr=lr, beta=beta), order=2).max()
    assert abs(measured - np.sqrt(beta)) < 1e-6
    assert abs(measured - best) < 1e-3


@pytest.mark.parametrize("closure", [True, False])
@pytest.mark.parametrize(("lr", "beta"), [(0.3, 0.5), (1.0, 0.9), (2.0, 0.8)])
def test_both_nesterovs_contract_by_the_spectral_radius(lr: float, beta: float, closure: bool) -> None:
    measured = _rates(_trajectory(sr.board.nesterov, 40, closure=closure, lr=lr, beta=beta), order=2)

    def matrix(lam: float) -> list[list[float]]:
        shrink = 1 - lr * (1 - beta) * lam
        return [[shrink, -lr * beta * shrink], [(1 - beta) * lam, beta * shrink]]

    assert np.allclose(measured, _radius(matrix), rtol=0, atol=1e-6)


@pytest.mark.parametrize("look_ahead", ["momentum", "board"])
def test_closure_and_closure_free_nesterov_agree(look_ahead: str) -> None:
    rule = sr.board.nesterov(look_ahead=look_ahead, lr=0.2, beta=0.6)
    exact, free = _trajectory(rule, 60, closure=True), _trajectory(rule, 60)
    assert np.abs(exact - free).max() < 1e-12


def test_closure_and_closure_free_nesterov_agree_while_the_learning_rate_changes() -> None:
    """The exact method looks ahead with the new rate, the other with the one its point was made with."""
    theta = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = sr.board.nesterov.optimizer([theta], lr=0.1, beta=0.9)
    for step in range(10):
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
        theta.grad = torch.ones_like(theta)
        optimizer.step()
    m, expected = 0.0, 1.0
    for step in range(10):
        m = 0.1 + 0.9 * m
        expected -= 0.1 / (1 + step) * m
    with optimizer.at_iterate():
        assert torch.allclose(theta, torch.full_like(theta, expected), rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_momentum_with_beta_zero_is_sgd_bit_for_bit(dtype: torch.dtype) -> None:
    start, other = torch.randn(1001, dtype=dtype), torch.randn(7, 9, dtype=dtype)
    runs = []
    for rule in (sr.board.sgd(lr=0.037), sr.board.momentum(lr=0.037, beta=0)):
        parameters = [torch.nn.Parameter(start.clone()), torch.nn.Parameter(other.clone())]
        optimizer = rule.optimizer(parameters)
        generator = torch.Generator().manual_seed(5)
        for _ in range(20):
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape, dtype=dtype, generator=generator)
            optimizer.step()
        runs.append(parameters)
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("rule", [sr.board.momentum, sr.board.nesterov], ids=lambda rule: rule.name)
def test_beta_one_never_changes_the_smoothing_vector(rule: Any) -> None:
    theta = torch.nn.Parameter(torch.randn(50))
    optimizer = rule.optimizer([theta], lr=0.1, beta=1.0)
    theta.grad = torch.randn(50)
    optimizer.step()
    start = torch.randn(50)
    optimizer.state[theta]["m"].copy_(start)
    for _ in range(5):
        theta.grad = torch.randn(50)
        optimizer.step()
        assert torch.equal(optimizer.state[theta]["m"], start)


@pytest.mark.parametrize("lr", [0.01, 1.0])
@pytest.mark.parametrize("length", [1.0, 0.25])
def test_normalised_clipping_makes_sgd_steps_exactly_eta_times_s_g_long(lr: float, length: float) -> None:
    parameters = [torch.nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in [(30,), (4, 5), ()]]
    optimizer = sr.chain(sr.board.clip_norm(max_norm=length), sr.board.sgd(lr=lr)).optimizer(parameters)
    for scale in (1e-12, 1.0, 1e9):
        before = [parameter.detach().clone() for parameter in parameters]
        for parameter in parameters:
            parameter.data.zero_()
            parameter.grad = scale * torch.randn_like(parameter)
        optimizer.step()
        moved = torch.cat([parameter.detach().ravel() for parameter in parameters]).norm().item()
        assert moved == pytest.approx(lr * length, rel=1e-14)
        assert len(before) == len(parameters)


CLIPPINGS = [sr.board.clip_norm, sr.board.clip_component, sr.clip_global_norm, sr.clip_norm, sr.clip_value]


@pytest.mark.parametrize("clip", CLIPPINGS, ids=lambda clip: f"{clip.__module__.split('.')[-1]}.{clip.name}")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_zero_gradient_stays_zero_through_every_clipping(clip: Any, dtype: torch.dtype) -> None:
    start = torch.randn(17, dtype=dtype)
    theta = torch.nn.Parameter(start.clone())
    optimizer = sr.chain(clip, sr.board.sgd(lr=0.5)).optimizer([theta])
    theta.grad = torch.zeros_like(theta)
    optimizer.step()
    assert torch.equal(theta.detach(), start)


@pytest.mark.parametrize("rule", [sr.board.adagrad(eps=0), sr.board.rmsprop(eps=0)], ids=lambda rule: rule.name)
def test_adaptive_steps_ignore_the_scale_of_each_coordinate(rule: Any) -> None:
    scale = torch.tensor([1e-6, 1.0, 1e6], dtype=torch.float64)
    ends = []
    for factor in (torch.ones_like(scale), scale):
        theta = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
        optimizer = rule.optimizer([theta])
        generator = torch.Generator().manual_seed(1)
        for _ in range(30):
            theta.grad = factor * torch.randn(3, dtype=torch.float64, generator=generator)
            optimizer.step()
        ends.append(theta.detach())
    assert torch.allclose(*ends, rtol=1e-12, atol=0)


def _adam_steps(gradients: torch.Tensor, beta1: float, beta2: float) -> torch.Tensor:
    """Return |Δθ| / η of every step of the board's Adam with ε = 0."""
    theta = torch.nn.Parameter(torch.zeros(gradients.shape[1], dtype=torch.float64))
    optimizer = sr.board.adam.optimizer([theta], lr=1.0, beta1=beta1, beta2=beta2, eps=0.0)
    lengths = []
    for gradient in gradients:
        before = theta.detach().clone()
        theta.grad = gradient
        optimizer.step()
        lengths.append((theta.detach() - before).abs())
    return torch.stack(lengths)


@pytest.mark.parametrize(("beta1", "beta2"), [(0.9, 0.99), (0.5, 0.99), (0.9, 0.999)])
def test_adam_steps_keep_the_bound_that_cauchy_and_schwarz_give(beta1: float, beta2: float) -> None:
    """|m|/√s ≤ (1−β₁)/√(1−β₂)/√(1−β₁²/β₂) whatever the gradients; the often quoted bound without the last root
    holds in the two extreme cases it was made for: a lone gradient after silence, and a steady one."""
    quoted = (1 - beta1) / np.sqrt(1 - beta2)
    wild = torch.randn(1200, 500, dtype=torch.float64) ** 5
    assert _adam_steps(wild, beta1, beta2).max().item() <= quoted / np.sqrt(1 - beta1**2 / beta2) * (1 + 1e-12)
    lone = torch.zeros(3, 1, dtype=torch.float64)
    lone[0] = 7.0
    assert _adam_steps(lone, beta1, beta2)[0].item() == pytest.approx(quoted, rel=1e-12)
    steady = torch.full((4000, 1), 0.3, dtype=torch.float64)
    assert _adam_steps(steady, beta1, beta2)[-1].item() == pytest.approx(1.0, rel=0.02)


def test_the_board_forms_of_clipping_read_as_written() -> None:
    """① always rescales, also what is short; ② bounds from above only."""
    for clip, expected in (
        (sr.board.clip_norm(max_norm=2.0), [1.2, -1.6]),
        (sr.clip_global_norm(max_norm=2.0), [0.3, -0.4]),
        (sr.board.clip_component(limit=0.2), [0.2, -0.4]),
        (sr.clip_value(limit=0.2), [0.2, -0.2]),
    ):
        theta = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
        theta.grad = torch.tensor([0.3, -0.4], dtype=torch.float64)
        sr.chain(clip, sr.board.sgd(lr=1.0)).optimizer([theta]).step()
        assert torch.allclose(-theta.detach(), torch.tensor(expected, dtype=torch.float64), rtol=1e-14)


def test_a_rate_of_one_gives_the_boards_adaptive_lines_as_written() -> None:
    """The board writes them without η: θₜ = θₜ₋₁ − g/√(Sₜ + ε), and with m for g."""
    start = torch.linspace(-1, 1, 9, dtype=torch.float64)
    for program in (sr.board.adagrad, sr.board.rmsprop, sr.board.adam):
        theta = torch.nn.Parameter(start.clone())
        optimizer = program.optimizer([theta], lr=1, backend="eager")
        own, m, s = start.clone(), torch.zeros(9, dtype=torch.float64), torch.zeros(9, dtype=torch.float64)
        for step in range(5):
            theta.grad = g = torch.sin(start * (step + 2)) + 0.1
            optimizer.step()
            m = 0.1 * g + 0.9 * m
            s = s + g**2 if program is sr.board.adagrad else 0.99 * s + 0.01 * g**2
            own = own - (m if program is sr.board.adam else g) / torch.sqrt(s + 1e-8)
        torch.testing.assert_close(theta.detach(), own, rtol=1e-12, atol=1e-12)
