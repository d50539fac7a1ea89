"""Rules that use the loss: the closure's value, or what a step is told; without it nothing is done."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch

import steprule as sr
from steprule import chain, clip_value, global_sum, minimum, rule, slot
from steprule.errors import HyperparameterError, RuleError
from steprule.rule.trace import LOSS


@rule
def by_the_loss(theta, g, seen=slot(rank="host"), *, lr=1.0, eps=1e-12, loss):
    """Polyak's step, at most lr, of a least loss of 0; it keeps the loss."""
    return theta - minimum(lr, loss / (global_sum(g * g) + eps)) * g, loss


def model(dtype: torch.dtype = torch.float64) -> list[torch.nn.Parameter]:
    values = ([1.0, -2.0, 0.5], [[3.0], [-1.0]])
    return [torch.nn.Parameter(torch.tensor(value, dtype=dtype)) for value in values]


def of(parameters: list[torch.nn.Parameter]) -> torch.Tensor:
    return torch.stack([(p**2).sum() for p in parameters]).sum()


def moved(parameters: list[torch.nn.Parameter], lr: float) -> list[torch.Tensor]:
    """Return what one step makes, in plain torch."""
    loss = of(parameters)
    gradients = torch.autograd.grad(loss, parameters)
    size = min(lr, loss.item() / (float(sum((g * g).sum() for g in gradients)) + 1e-12))
    return [p.detach() - size * g for p, g in zip(parameters, gradients, strict=True)]


@pytest.mark.cpu
@pytest.mark.parametrize("backend", [None, "eager"])
def test_the_closures_value_and_a_told_loss_are_the_loss_at_every_step(backend: str | None) -> None:
    """Also where nothing else in a group has changed, and in a second group of another lr."""
    parameters = model()
    optimizer = sr.Optimizer(
        [{"params": parameters[:1]}, {"params": parameters[1:], "lr": 0.125}], by_the_loss, backend=backend
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = of(parameters)
        loss.backward()
        return loss

    for told in (False, True, False, True):
        wanted = [moved(parameters, 1.0)[0], moved(parameters, 0.125)[1]]
        loss = closure()
        assert optimizer.step(loss=loss) is None if told else optimizer.step(closure) == loss
        for parameter, value in zip(parameters, wanted, strict=True):
            torch.testing.assert_close(parameter.detach(), value, rtol=1e-13, atol=0)
            assert optimizer.state[parameter]["seen"] == loss
    assert optimizer._loss is None  # whose graph would be held


@pytest.mark.cpu
@pytest.mark.parametrize("loss", [None, "0.5", torch.ones(2), (1.0, 2.0), 1j])
def test_without_a_loss_that_is_a_number_nothing_is_written_and_the_error_says_what_to_write(loss: Any) -> None:
    parameters = model()
    optimizer = chain(clip_value(limit=1.0), by_the_loss).optimizer(parameters)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    for taken in (0, 1):
        before = copy.deepcopy((parameters, optimizer.state_dict()["state"]))
        with pytest.raises(HyperparameterError, match="needs the loss") as caught:
            optimizer.step(loss=loss)
        assert "step(closure)" in caught.value.fix
        assert "loss / (global_sum" in caught.value.where
        assert repr((parameters, optimizer.state_dict()["state"])) == repr(before)
        assert len(optimizer.state) == 2 * taken
        optimizer.step(loss=2)
    with pytest.raises(HyperparameterError, match="given none"):
        optimizer.step(lambda: None)


@pytest.mark.cpu
def test_hooks_schedulers_and_scalers_hand_the_loss_on() -> None:
    parameters = model(torch.float32)
    optimizer = by_the_loss.optimizer(parameters, lr=0.25)
    seen: list[Any] = []
    optimizer.register_step_pre_hook(lambda _, args, kwargs: seen.append((args, kwargs)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    wanted = moved(parameters, 0.25)
    loss = of(parameters)
    scaler.scale(loss).backward()
    scaler.step(optimizer, loss=loss)
    scaler.update()
    scheduler.step()
    for parameter, value in zip(parameters, wanted, strict=True):
        torch.testing.assert_close(parameter.detach(), value)
    assert seen == [((optimizer,), {"loss": loss})]


@pytest.mark.interp
def test_a_gpus_kernels_read_the_loss_of_every_step() -> None:
    if torch.cuda.is_available():
        pytest.skip("kernels are compiled, for tensors on a device")
    parameters, eager = model(torch.float32), model(torch.float32)
    for own, backend in ((parameters, "triton_gpu"), (eager, "eager")):
        optimizer = by_the_loss.optimizer(own, backend=backend)
        for loss in (0.5, 0.25):
            for parameter in own:
                parameter.grad = torch.ones_like(parameter)
            optimizer.step(loss=loss)
    assert all(torch.allclose(a, b) for a, b in zip(parameters, eager, strict=True))


@pytest.mark.null
def test_the_loss_is_no_hyperparameter_and_inner_rules_share_it() -> None:
    assert list(by_the_loss.hypers) == ["lr", "eps"]
    assert LOSS in by_the_loss.graph.hypers
    outer = rule(lambda theta, g, seen=slot(rank="host"), *, lr=1.0: by_the_loss(theta, lr * g, seen))
    assert outer.graph.hypers.count(LOSS) == 1
    assert "L / (" in sr.explain(by_the_loss).formula
    optimizer = by_the_loss.optimizer(model())
    assert "loss" not in optimizer.param_groups[0]
    assert not sr.board.adam.graph.uses_loss


@pytest.mark.null
def test_a_step_in_the_backward_pass_has_no_loss() -> None:
    optimizer = rule(lambda theta, g, *, lr=1.0, loss: theta - lr * loss * g).optimizer(model())
    with pytest.raises(RuleError, match="which nobody tells a backward pass"):
        optimizer.step_in_backward()
