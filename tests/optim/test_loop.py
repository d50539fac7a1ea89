"""A training loop around an optimiser: closures, hooks, learning rates and torch's schedulers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler
from truth import BOARD, CLIPPED, bits, corrected_adam, fill_gradients, make

import steprule as sr
from steprule import board

pytestmark = pytest.mark.cpu


# Closures and hooks --------------------------------------------------------------------------------------


@pytest.mark.hostile("P7")
@pytest.mark.parametrize("program", [board.adam, board.nesterov, CLIPPED], ids=lambda program: program.name)
def test_a_closure_runs_once_with_gradients_on_and_its_value_comes_back(program: Any) -> None:
    parameters = make((3,))
    optimizer = sr.Optimizer(parameters, program)
    calls = []

    def closure() -> torch.Tensor:
        assert torch.is_grad_enabled()
        optimizer.zero_grad()
        loss = (parameters[0] ** 2).sum()
        loss.backward()
        calls.append(loss)
        return loss

    for _ in range(2):
        with torch.no_grad():
            assert optimizer.step(closure) is calls[-1]
    assert len(calls) == 2
    assert calls[1] < calls[0]


@pytest.mark.hostile("P7")
@pytest.mark.parametrize("mode", ["with closures", "without", "both"])
@pytest.mark.parametrize("program", [board.adam, *BOARD[3:5], CLIPPED], ids=lambda program: repr(program)[:40])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_closure_that_raises_leaves_everything_as_it_was(program: Any, error: type[BaseException], mode: str) -> None:
    """Also where a rule with a look-ahead has moved the parameters meanwhile, and the rate has changed since."""
    parameters = make((3,), (2, 2))
    optimizer = sr.Optimizer(parameters, program)

    def closure() -> None:
        fill_gradients(parameters)

    def fail() -> None:
        raise error

    for number in range(4):
        if mode == "with closures" or (mode == "both" and number < 2):
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.5
    before = bits(optimizer)
    with pytest.raises(error):
        optimizer.step(fail)
    assert bits(optimizer) == before


@pytest.mark.hostile("P8")
def test_hooks_run_around_the_step_in_order_and_may_change_gradients() -> None:
    (parameter,) = make((3,))
    optimizer = board.sgd.optimizer([parameter], lr=1.0)
    told: list[str] = []

    def before(*_: Any) -> None:
        told.append("before")
        parameter.grad = torch.full_like(parameter, 2.0)

    handles = [
        optimizer.register_step_pre_hook(before),
        optimizer.register_step_post_hook(lambda *_: told.append("after")),
    ]
    start = parameter.detach().clone()
    fill_gradients([parameter])
    optimizer.step()
    assert told == ["before", "after"]
    assert torch.equal(parameter, start - 2)
    for handle in handles:
        handle.remove()
    optimizer.step()
    assert len(told) == 2


@pytest.mark.hostile("P8")
def test_a_hook_that_raises_leaves_everything_as_it_was() -> None:
    parameters = make((3,))
    optimizer = corrected_adam.optimizer(parameters)
    fill_gradients(parameters)
    optimizer.step()
    before = bits(optimizer)
    handle = optimizer.register_step_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        optimizer.step()
    assert bits(optimizer) == before
    handle.remove()
    optimizer.step()
    assert float(optimizer.state[parameters[0]]["step"]) == 2


# Learning rates ------------------------------------------------------------------------------------------

SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "step": lambda o: lr_scheduler.StepLR(o, 3),
    "multistep": lambda o: lr_scheduler.MultiStepLR(o, [2, 5]),
    "constant": lambda o: lr_scheduler.ConstantLR(o, 0.5, 3),
    "linear": lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=4),
    "exponential": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "polynomial": lambda o: lr_scheduler.PolynomialLR(o, 5, 2.0),
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 1 / (1 + epoch)),
    "multiplicative": lambda o: lr_scheduler.MultiplicativeLR(o, lambda epoch: 0.9),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 6),
    "restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.2, 3, cycle_momentum=False),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.2, total_steps=9, cycle_momentum=False),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
    "chained": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.1, 2), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1, 2), lr_scheduler.ExponentialLR(o, 0.9)], [3]
    ),
    "averaging": lambda o: torch.optim.swa_utils.SWALR(o, 0.01, anneal_epochs=4),
}


@pytest.mark.hostile("P3")
@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_of_torch_drives_the_rate(name: str) -> None:
    ours = make((3,), (2, 2), dtype=torch.float64)
    theirs = [torch.nn.Parameter(parameter.detach().clone()) for parameter in ours]
    pair = [(board.sgd.optimizer(ours, lr=0.1), ours), (torch.optim.SGD(theirs, lr=0.1), theirs)]
    schedulers = []
    for optimizer, _ in pair:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            schedulers.append(SCHEDULERS[name](optimizer))
    for number in range(8):
        for (optimizer, parameters), scheduler in zip(pair, schedulers, strict=True):
            torch.manual_seed(number)
            fill_gradients(parameters)
            optimizer.step()
            scheduler.step(1.0) if name == "plateau" else scheduler.step()
        assert pair[0][0].param_groups[0]["lr"] == pair[1][0].param_groups[0]["lr"]
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-14, atol=1e-15)


def test_cycling_the_momentum_needs_a_rule_that_names_it() -> None:
    """torch's OneCycleLR and CyclicLR move `momentum` or `betas`; the board's rules call theirs otherwise."""
    with pytest.raises(ValueError, match="momentum"):
        lr_scheduler.OneCycleLR(board.momentum.optimizer(make((2,))), 0.2, total_steps=5)


@pytest.mark.hostile("P3")
def test_a_rate_that_is_a_tensor_is_read_at_every_step() -> None:
    (parameter,) = make((3,), dtype=torch.float64)
    rate = torch.tensor(0.5)
    optimizer = board.sgd.optimizer([parameter], lr=rate)
    start = parameter.detach().clone()
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    rate.fill_(0.25)
    optimizer.step()
    optimizer.param_groups[0]["lr"] = np.float32(0.125)
    optimizer.step()
    optimizer.param_groups[0]["lr"] = torch.tensor([0.125], requires_grad=True)
    optimizer.step()
    assert torch.equal(parameter, start - 1)
    scheduler = lr_scheduler.StepLR(board.sgd.optimizer([parameter], lr=torch.tensor(0.5)), 1)
    scheduler.optimizer.step()
    scheduler.step()
    assert float(scheduler.optimizer.param_groups[0]["lr"]) == pytest.approx(0.05)
