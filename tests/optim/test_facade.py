"""The facade behaves as torch.optim does: groups, and gradients that come and go."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from truth import CLIPPED, WITH_CLIPPING, Truth, bits, corrected_adam, fill_gradients, make, raw, step_both

import steprule as sr
from steprule import board, chain
from steprule.errors import HyperparameterError, ParameterError, RuleError, StepruleError

pytestmark = pytest.mark.cpu

# Groups --------------------------------------------------------------------------------------------------


def test_groups_with_their_own_hyperparameters_are_as_separate_optimisers() -> None:
    options: list[dict[str, float]] = [{}, {"lr": 0.5}, {"beta1": 0.0, "eps": 1e-2}, {"lr": 0.0}, {"beta2": 0.5}]
    ours = make(*[(3, 2)] * 5)
    theirs = [torch.nn.Parameter(parameter.detach().clone()) for parameter in ours]
    groups = [{"params": [p], **own} for p, own in zip(ours, options, strict=True)]
    together = sr.Optimizer(groups, corrected_adam, lr=0.05)
    apart = [sr.Optimizer([p], corrected_adam, **{"lr": 0.05, **own}) for p, own in zip(theirs, options, strict=True)]
    for _ in range(4):
        fill_gradients(ours)
        for mine, other, optimizer in zip(ours, theirs, apart, strict=True):
            other.grad = mine.grad.clone()
            optimizer.step()
        together.step()
        assert [raw(p) for p in ours] == [raw(p) for p in theirs]


def test_a_global_norm_spans_groups() -> None:
    parameters = make((3,), (4, 2), (), dtype=torch.float64)
    optimizer = sr.Optimizer(
        [{"params": [p], "lr": 0.1 * i, "max_norm": i + 0.5} for i, p in enumerate(parameters)], CLIPPED
    )
    truth = Truth(optimizer)
    for _ in range(3):
        fill_gradients(parameters)
        step_both(optimizer, truth)


@pytest.mark.hostile("P2")
def test_a_group_added_after_steps_counts_from_one() -> None:
    first, late = make((3,)), make((2, 2), (5,))
    optimizer = corrected_adam.optimizer(first)
    truth = Truth(optimizer)
    for _ in range(3):
        fill_gradients(first)
        step_both(optimizer, truth)
    optimizer.add_param_group({"params": late, "lr": 0.3})
    for _ in range(2):
        fill_gradients([*first, *late])
        step_both(optimizer, truth)
    assert [float(optimizer.state[p]["step"]) for p in (*first, *late)] == [5, 2, 2]


@pytest.mark.hostile("P2")
def test_a_parameter_replaced_in_its_group_is_followed() -> None:
    (old,), (new,) = make((3,)), make((3,))
    optimizer = corrected_adam.optimizer([old])
    truth = Truth(optimizer)
    fill_gradients([old, new])
    step_both(optimizer, truth)
    kept = raw(old)
    optimizer.param_groups[0]["params"][0] = new
    step_both(optimizer, truth)
    assert raw(old) == kept


@pytest.mark.hostile("P4", "P6")
def test_params_are_taken_and_refused_as_torch_does() -> None:
    a, b = make((2,), (3,))
    for params, kind in (
        (torch.ones(3), TypeError),
        ([], ValueError),
        ([[a], b], TypeError),
        ([{"params": [a]}, b], TypeError),
        ([{"params": [a]}, {"params": [a]}], ValueError),
        ([a.detach() * 2 + a], ValueError),
    ):
        with pytest.raises(kind):
            torch.optim.SGD(params)  # type: ignore[arg-type]
        with pytest.raises(kind):
            board.sgd.optimizer(params)
    assert len(board.sgd.optimizer(iter([a, b])).param_groups[0]["params"]) == 2
    with pytest.warns(UserWarning, match="duplicate"):
        twice = board.sgd.optimizer([a, a])
    fill_gradients([a])
    with pytest.raises(ParameterError, match="share memory"):
        twice.step()


def test_named_parameters_name_the_state_and_the_errors() -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = board.momentum.optimizer(model.named_parameters())
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    model.bias.data = torch.zeros(7)
    with pytest.raises(ParameterError, match="`bias`"):
        optimizer.step()


def test_the_optimizer_prints_its_groups() -> None:
    optimizer = sr.Optimizer(make((2,)), CLIPPED, lr=0.5)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert "lr: 0.5" in repr(optimizer)
    assert "max_norm: 0.5" in repr(optimizer)


def test_a_number_a_transform_and_a_chain_clip_alike() -> None:
    clips: list[Any] = [0.25, sr.clip_global_norm(max_norm=0.25)]
    results = []
    for clip in clips:
        torch.manual_seed(3)
        parameters = make((4,), (2, 3))
        optimizer = sr.Optimizer(parameters, board.adam, clip=clip)
        fill_gradients(parameters, 10.0)
        optimizer.step()
        results.append(bits(optimizer))
    assert results[0] == results[1]
    for bad in ("1", [1.0], -1.0, math.nan):
        with pytest.raises((RuleError, ValueError)):
            sr.Optimizer(make((2,)), board.sgd, clip=bad)  # type: ignore[arg-type]


# Gradients -----------------------------------------------------------------------------------------------


@pytest.mark.hostile("P1")
def test_gradients_may_be_missing_sometimes_at_first_or_always() -> None:
    always, sometimes, late, never = make((3,), (2, 2), (4,), (5,), dtype=torch.float64)
    optimizer = corrected_adam.optimizer([always, sometimes, late, never])
    truth = Truth(optimizer)
    untouched = raw(never)
    for number in range(1, 13):
        optimizer.zero_grad()
        fill_gradients([always] + [sometimes] * (number % 3 == 0) + [late] * (number >= 8))
        step_both(optimizer, truth)
    assert [float(optimizer.state[p]["step"]) for p in (always, sometimes, late)] == [12, 4, 5]
    assert raw(never) == untouched
    assert never not in optimizer.state


@pytest.mark.hostile("M9", "P7")
def test_a_step_without_any_gradient_changes_nothing() -> None:
    parameters = make((3,), (0,))
    optimizer = sr.Optimizer(parameters, CLIPPED)
    before = bits(optimizer)
    optimizer.step()
    assert bits(optimizer) == before
    assert optimizer.step(lambda: 1.5) == 1.5


@pytest.mark.parametrize("none", [True, False])
def test_zeroed_gradients_are_followed_or_skipped(none: bool) -> None:
    (parameter,) = make((3,), dtype=torch.float64)
    optimizer = corrected_adam.optimizer([parameter])
    truth = Truth(optimizer)
    fill_gradients([parameter])
    step_both(optimizer, truth)
    optimizer.zero_grad(set_to_none=none)
    step_both(optimizer, truth)
    assert float(optimizer.state[parameter]["step"]) == 1 + (not none)


@pytest.mark.hostile("M9")
def test_a_thousand_empty_tensors_and_one_that_is_not() -> None:
    for place in (0, 500, 1000):
        parameters = make(*[(0,), (3, 0)] * 500)
        (full,) = make((3,))
        parameters.insert(place, full)
        optimizer = sr.Optimizer(parameters, CLIPPED, lr=1.0)
        truth = Truth(optimizer)
        fill_gradients(parameters)
        step_both(optimizer, truth)
    nothing = make((0,), (2, 0))
    optimizer = sr.Optimizer(nothing, chain(board.clip_norm, corrected_adam))
    fill_gradients(nothing)
    optimizer.step()
    assert float(optimizer.state[nothing[0]]["step"]) == 1


@pytest.mark.parametrize("program", WITH_CLIPPING, ids=lambda program: repr(program)[:40])
def test_gradients_are_read_and_never_written(program: Any) -> None:
    parameters = make((5,), (2, 3))
    optimizer = sr.Optimizer(parameters, program)
    fill_gradients(parameters, 100.0)
    held = [(parameter.grad, raw(parameter.grad)) for parameter in parameters]
    for _ in range(2):
        optimizer.step()
    optimizer.step(lambda: None)
    for parameter, (gradient, before) in zip(parameters, held, strict=True):
        assert parameter.grad is gradient
        assert raw(gradient) == before


@pytest.mark.parametrize("program", WITH_CLIPPING, ids=lambda program: repr(program)[:40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_zero_step_with_a_zero_gradient_changes_no_parameter(program: Any, dtype: torch.dtype) -> None:
    """Checkpoint tools take exactly this step to make the state."""
    parameters = make((5,), (), dtype=dtype)
    optimizer = sr.Optimizer(parameters, program, lr=0.0)
    before = [raw(parameter) for parameter in parameters]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert [raw(parameter) for parameter in parameters] == before
    assert all(torch.isfinite(v).all() for p in parameters for v in optimizer.state[p].values())


@pytest.mark.hostile("M22")
def test_backward_through_a_stepped_parameter_is_an_error() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        (parameter,) = make((3,), dtype=dtype)
        optimizer = board.sgd.optimizer([parameter])
        loss = (parameter**2).sum()
        loss.backward(retain_graph=True)
        version = parameter._version
        optimizer.step()
        assert parameter._version > version
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@pytest.mark.parametrize("make", [lambda g: sr.optim.Rprop(g), lambda g: board.adam.optimizer(g)])
def test_a_weight_decay_that_nothing_would_apply_is_refused(make: Callable[[Any], Any]) -> None:
    """Trainers put the key into every group: 0 is no decay, anything else would be lost without a word."""
    make([{"params": [torch.nn.Parameter(torch.ones(2))], "weight_decay": 0.0}])
    with pytest.raises(HyperparameterError, match=r"has no weight decay, but group 0 asks for 0\.1"):
        make([{"params": [torch.nn.Parameter(torch.ones(2))], "weight_decay": 0.1}])


@pytest.mark.parametrize("trouble", ["a NaN left out", "a NaN refused", "an lr that is none", "no such backend here"])
def test_a_first_step_that_does_not_happen_leaves_no_state(trouble: str) -> None:
    """State with count 0 would be read by torch as that of a parameter in mid-training."""
    parameter = torch.nn.Parameter(torch.ones(6)[::2] if trouble.startswith("no") else torch.ones(3))
    forced = "numba_cpu" if trouble.startswith("no") else None
    nonfinite = "raise" if trouble.endswith("refused") else "skip"
    optimizer = sr.optim.Rprop([parameter], nonfinite=nonfinite, backend=forced)
    parameter.grad = torch.full_like(parameter, math.nan if "NaN" in trouble else 1.0)
    if trouble.startswith("an lr"):
        optimizer.param_groups[0]["lr"] = "fast"
    if nonfinite == "skip" and "NaN" in trouble:
        optimizer.step()
    else:
        with pytest.raises(StepruleError):
            optimizer.step()
    assert optimizer.state_dict()["state"] == {}
    assert parameter.tolist() == [1.0] * 3
