"""Rules with a look-ahead: with closures, without, switching between the two, and what checkpoints hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from truth import bits, make, raw

import steprule as sr
from steprule import board, rule, slot

pytestmark = pytest.mark.cpu


@rule(evaluate_at=lambda theta, m, *, lr, beta: theta + beta * lr * (-m))
def added(theta, g, m, *, lr=0.1, beta=0.9):
    """Momentum whose look-ahead is written as a sum."""
    m = (1 - beta) * g + beta * m
    return theta - lr * m, m


RULES = [board.nesterov, board.nesterov(look_ahead="board"), added]
CURVATURE = torch.tensor([1.0, 3.0, 0.2], dtype=torch.float64)
RATES = [0.1, 0.1, 0.3, 0.3, 0.02, 0.1, 0.1, 0.2]
BETAS = [0.9, 0.9, 0.5, 0.5, 0.9, 0.0, 0.8, 0.8]


def by_hand(literal: bool) -> list[torch.Tensor]:
    """Nesterov on a quadratic, line by line as the board writes it, while lr and β change."""
    theta, m = torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    found = []
    for lr, beta in zip(RATES, BETAS, strict=True):
        ahead = beta * m / (1 - beta) if literal else lr * beta * m
        g = CURVATURE * (theta - ahead)
        m = (1 - beta) * g + beta * m
        theta = theta - lr * m
        found.append(theta)
    return found


class Run:
    """A quadratic being minimised; every step may or may not use a closure."""

    def __init__(self, program: Any, **options: Any) -> None:
        self.theta = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
        self.optimizer = sr.Optimizer([self.theta], program, **options)

    def gradient(self) -> None:
        self.theta.grad = CURVATURE * self.theta.detach()

    def step(self, number: int, *, closure: bool) -> None:
        """Without a closure, the gradient is taken where the parameters are, then hyperparameters change."""
        group = self.optimizer.param_groups[0]
        if closure:
            group["lr"], group["beta"] = RATES[number], BETAS[number]
            self.optimizer.step(self.gradient)
        else:
            self.gradient()
            self.optimizer.step()

    def iterate(self) -> torch.Tensor:
        with self.optimizer.at_iterate():
            return self.theta.detach().clone()


@pytest.mark.parametrize("backend", [None, "eager"])
@pytest.mark.parametrize("program", RULES, ids=repr)
def test_closures_follow_the_board_while_hyperparameters_change(program: Any, backend: str | None) -> None:
    run = Run(program, backend=backend)
    for number, expected in enumerate(by_hand("board" in program.part.chosen.values())):
        run.step(number, closure=True)
        torch.testing.assert_close(run.theta.detach(), expected, rtol=1e-13, atol=1e-14)
        assert torch.equal(run.iterate(), run.theta)


@pytest.mark.parametrize("pattern", ["........", "...ccccc", "cccc....", ".c.c.c.c", "cc..cc.."])
@pytest.mark.parametrize("program", RULES, ids=repr)
def test_steps_with_and_without_closures_follow_one_path(program: Any, pattern: str) -> None:
    """Without a closure the gradient is the stored point's: the look-ahead's, or θ's just after a closure."""
    run, literal = Run(program), "board" in program.part.chosen.values()
    theta, m, ahead = torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), False
    for kind in pattern:
        if kind == "c":
            run.optimizer.step(run.gradient)
        else:
            run.gradient()
            run.optimizer.step()
        shift = 0.9 * m / (1 - 0.9) if literal else 0.1 * 0.9 * m
        g = CURVATURE * (theta - shift if ahead or kind == "c" else theta)
        m = (1 - 0.9) * g + 0.9 * m
        theta, ahead = theta - 0.1 * m, kind != "c"
        torch.testing.assert_close(run.iterate(), theta, rtol=1e-12, atol=1e-13)
        assert float(run.optimizer.state[run.theta]["ahead"]) == ahead


@pytest.mark.parametrize("program", RULES, ids=repr)
def test_a_rate_that_changes_between_steps_moves_no_iterate(program: Any) -> None:
    """The point was made with the old rate: only the old rate leads back from it."""
    run = Run(program)
    for _ in range(3):
        run.gradient()
        run.optimizer.step()
    before = run.iterate()
    run.optimizer.param_groups[0].update(lr=0.7, beta=0.3)
    assert torch.equal(run.iterate(), before)
    run.gradient()
    g = run.theta.grad.clone()
    m = run.optimizer.state[run.theta]["m"].clone()
    run.optimizer.step()
    torch.testing.assert_close(run.iterate(), before - 0.7 * (0.7 * g + 0.3 * m), rtol=1e-13, atol=1e-14)


def test_at_iterate_gives_back_the_very_same_point() -> None:
    run = Run(board.nesterov)
    for number in range(3):
        run.step(number, closure=False)
    before = bits(run.optimizer)
    with run.optimizer.at_iterate():
        assert raw(run.theta) != before[0][1]
        with pytest.raises(ValueError, match=r"step\(\) inside at_iterate"):
            run.optimizer.step()
    assert bits(run.optimizer) == before
    with pytest.raises(KeyError), run.optimizer.at_iterate():
        raise KeyError
    assert bits(run.optimizer) == before
    run.step(3, closure=False)


def test_at_iterate_is_nothing_for_other_rules() -> None:
    parameters = make((3,))
    optimizer = board.adam.optimizer(parameters)
    before = bits(optimizer)
    with optimizer.at_iterate():
        assert bits(optimizer) == before
    assert bits(optimizer) == before


@pytest.mark.parametrize("inside", [False, True])
def test_a_checkpoint_says_which_point_it_holds(inside: bool) -> None:
    """Saved inside or outside `at_iterate`, it comes back with the same iterate."""
    run, again = Run(board.nesterov), Run(board.nesterov)
    for number in range(3):
        run.step(number, closure=False)

    def save() -> tuple[torch.Tensor, dict[str, Any]]:
        state = run.optimizer.state_dict()
        return run.theta.detach().clone(), {**state, "state": {0: {k: v.clone() for k, v in state["state"][0].items()}}}

    if inside:
        with run.optimizer.at_iterate():
            weights, state = save()
    else:
        weights, state = save()
    again.theta.detach().copy_(weights)
    again.optimizer.load_state_dict(state)
    assert float(again.optimizer.state[again.theta]["ahead"]) == (not inside)
    assert torch.equal(again.iterate(), run.iterate())


@pytest.mark.parametrize("program", RULES[:2], ids=repr)
def test_momentum_zero_and_one_are_within_the_board(program: Any) -> None:
    """β = 0 is SGD bit for bit; β = 1 never moves m, and looks nowhere, also where the board divides by 1 − β."""
    for closure in (True, False):
        run, plain = Run(program, beta=0.0), Run(board.sgd)
        for _ in range(4):
            for one in (run, plain):
                if closure:
                    one.optimizer.step(one.gradient)
                else:
                    one.gradient()
                    one.optimizer.step()
        assert raw(run.theta) == raw(plain.theta)
        still = Run(program, beta=1.0)
        still.optimizer.step(still.gradient if closure else still.gradient())
        assert torch.equal(still.theta, torch.ones(3, dtype=torch.float64))


def parameters_with(gradients: Sequence[bool]) -> list[torch.nn.Parameter]:
    parameters = [torch.nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in gradients]
    for parameter, given in zip(parameters, gradients, strict=True):
        parameter.grad = torch.ones(2, dtype=torch.float64) if given else None
    return parameters


def test_parameters_without_gradients_are_not_moved_to_a_point() -> None:
    with_one, without = parameters_with([True, False])
    optimizer = board.nesterov.optimizer([with_one, without])
    for _ in range(3):
        optimizer.step()
        optimizer.step(lambda: None)
    assert torch.equal(without, torch.ones(2, dtype=torch.float64))
    assert not optimizer.state.get(without, {}).get("m", torch.zeros(1)).any()
    assert (with_one < 1).all()


@pytest.mark.parametrize("steps", [1, 3])
def test_the_first_closure_is_at_the_point_too(steps: int) -> None:
    """A slot that does not start from zero looks ahead from the start."""

    @rule(evaluate_at=lambda theta, m: theta - m)
    def looking(theta, g, m=slot(init=2.0), *, lr=1.0):
        return theta - lr * g, m / 2

    parameter = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = looking.optimizer([parameter])
    seen: list[float] = []

    def closure() -> None:
        seen.append(parameter.item())
        parameter.grad = torch.ones_like(parameter)

    for _ in range(steps):
        optimizer.step(closure)
    assert seen == [-2.0, -2.0, -2.5][:steps]
