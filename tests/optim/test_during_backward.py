"""Clipping by a norm that is taken during backward: the same numbers, and one pass less over memory."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from truth import make

import steprule as sr
from steprule import board, chain
from steprule.errors import NonFiniteError, ParameterError
from steprule.optim import watch

pytestmark = pytest.mark.cpu


@pytest.fixture(autouse=True)
def _small_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hook onto tensors of any size, so that small tests see hooks."""
    monkeypatch.setattr(watch, "WATCHED_FROM", 1)


def test_small_gradients_are_left_to_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "WATCHED_FROM", 32)
    small, large = torch.nn.Parameter(torch.ones(31)), torch.nn.Parameter(torch.ones(32))
    optimizer = board.sgd.optimizer([small, large], lr=1.0, clip=sr.clip_global_norm(max_norm=1.0, during="backward"))
    for _ in range(3):
        (small.sum() + large.sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert optimizer._watch.measured == 4  # both at the first step, which sets the hook, then the small one
    assert torch.allclose(small, torch.full((31,), 1 - 3 / 63**0.5))


BACKWARD = sr.clip_global_norm(max_norm=0.3, during="backward")
STEP = sr.clip_global_norm(max_norm=0.3)
Clip = Any


class Tied(torch.nn.Module):
    """Two layers with one weight, one that is only used on odd steps, and one that never is."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.tied = torch.nn.Parameter(torch.randn(6, 6, dtype=dtype))
        self.odd = torch.nn.Parameter(torch.randn(6, dtype=dtype))
        self.large = torch.nn.Parameter(torch.randn(300, 6, dtype=dtype).t())
        self.unused = torch.nn.Parameter(torch.randn(3, dtype=dtype))

    def forward(self, x: torch.Tensor, step: int) -> torch.Tensor:
        h = torch.tanh(torch.tanh(x @ self.tied) @ self.tied)
        return ((h + self.odd if step % 2 else h) @ self.large).square().mean() * 50


def trained(make_one: Callable[..., Any], clip: Clip, dtype: torch.dtype = torch.float64, passes: int = 1) -> Any:
    torch.manual_seed(5)
    model = Tied(dtype)
    optimizer = make_one(model.parameters(), clip=clip)
    train(model, optimizer, 0, 6, passes)
    return model, optimizer


def train(model: Tied, optimizer: Any, first: int, last: int, passes: int = 1) -> None:
    for step in range(first, last):
        torch.manual_seed(100 + step)
        optimizer.zero_grad()
        for _ in range(passes):
            model(torch.randn(8, 6, dtype=model.tied.dtype), step).backward()
        optimizer.step()


def values(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().double().flatten() for parameter in model.parameters()])


MAKERS = [
    lambda p, clip: sr.optim.AdamW(p, lr=0.01, clip=clip),
    lambda p, clip: board.adam.optimizer(p, clip=clip, lr=0.05),
]


@pytest.mark.parametrize("passes", [1, 3], ids=["one backward", "three accumulated"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("make_one", MAKERS)
def test_it_clips_as_in_the_step(make_one: Any, dtype: torch.dtype, passes: int) -> None:
    """Tied weights, a gradient that is missing at times and one that never comes, accumulation."""
    model, optimizer = trained(make_one, BACKWARD, dtype, passes)
    other, _ = trained(make_one, STEP, dtype, passes)
    unclipped, _ = trained(make_one, None, dtype, passes)
    exact = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 1e-2}[dtype]
    torch.testing.assert_close(values(model), values(other), rtol=exact, atol=exact)
    assert not torch.allclose(values(model), values(unclipped), rtol=exact, atol=exact)
    # Hooks are set at the first step, which itself measures the two gradients that are there; later ones need not.
    assert optimizer._watch.measured == (2 if dtype is not torch.bfloat16 else 15)


def test_a_pass_over_memory_is_saved_and_explained() -> None:
    told = sr.explain(chain(BACKWARD, board.adam))
    assert (len(told.passes), told.bytes_per_parameter) == (1, 28)
    assert "is given ‖g‖ by backward" in str(told)
    assert sr.explain(chain(STEP, board.adam)).bytes_per_parameter == 32
    assert told.formula == sr.explain(chain(STEP, board.adam)).formula


def test_behind_another_transform_the_norm_is_taken_in_the_step() -> None:
    """What backward makes is not what is clipped then."""
    program = chain(sr.clip_value(limit=0.1), BACKWARD, board.sgd)
    assert len(sr.explain(program).passes) == 2


CHANGES: dict[str, Callable[[torch.nn.Parameter], None]] = {
    "in place": lambda p: p.grad.mul_(0.25),
    "another tensor": lambda p: setattr(p, "grad", p.grad * 0.25),
    "by foreach": lambda p: torch._foreach_mul_([p.grad], 0.25),
    "through a view": lambda p: p.grad[2].fill_(0.5),
    "taken away": lambda p: setattr(p, "grad", None),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_gradient_that_was_changed_after_backward_is_measured_again(change: str) -> None:
    results = []
    for clip in (BACKWARD, STEP):
        model, optimizer = trained(MAKERS[0], clip)
        optimizer.zero_grad()
        torch.manual_seed(3)
        model(torch.randn(8, 6, dtype=torch.float64), 1).backward()
        CHANGES[change](model.large)
        optimizer.step()
        results.append(values(model))
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)


def test_grad_scaler_unscales_before_the_norm_counts() -> None:
    results = []
    for clip in (BACKWARD, STEP):
        torch.manual_seed(5)
        model = Tied(torch.float32)
        optimizer, scaler = sr.optim.AdamW(model.parameters(), lr=0.01, clip=clip), torch.amp.GradScaler("cpu")
        for step in range(3):
            torch.manual_seed(100 + step)
            optimizer.zero_grad()
            scaler.scale(model(torch.randn(8, 6), step)).backward()
            scaler.step(optimizer)
            scaler.update()
        results.append(values(model))
    torch.testing.assert_close(results[0], results[1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("policy", ["skip", "raise"])
def test_the_norm_guards_the_step(policy: str) -> None:
    model = Tied(torch.float64)
    optimizer = sr.optim.SGD(model.parameters(), lr=0.1, clip=BACKWARD, nonfinite=policy)
    train(model, optimizer, 0, 3)
    before = values(model)
    model(torch.full((8, 6), torch.nan, dtype=torch.float64), 1).backward()
    if policy == "raise":
        with pytest.raises(NonFiniteError, match="parameter 0 of group 0"):
            optimizer.step()
    else:
        optimizer.step()
    assert torch.equal(values(model), before)


def test_finite_gradients_whose_squares_overflow_are_no_bad_step() -> None:
    parameters = make((3,), dtype=torch.float64)
    optimizer = sr.optim.SGD(parameters, lr=0.1, clip=BACKWARD, nonfinite="raise")
    parameters[0].grad = torch.full((3,), 1e200, dtype=torch.float64)
    before = parameters[0].detach().clone()
    optimizer.step()
    assert torch.equal(parameters[0], before)  # an infinite norm shortens the gradient to nothing, as in torch


def test_parameters_added_replaced_and_frozen_are_followed() -> None:
    model, optimizer = trained(MAKERS[0], BACKWARD)
    other, reference = trained(MAKERS[0], STEP)
    for each, run in ((model, optimizer), (other, reference)):
        torch.manual_seed(9)
        each.odd.requires_grad_(False)
        each.odd.grad = None
        fresh = torch.nn.Parameter(torch.randn(6, 6, dtype=torch.float64))
        run.state.pop(each.tied)
        run.param_groups[0]["params"][0] = each.tied = fresh
        each.extra = torch.nn.Parameter(torch.randn(4, dtype=torch.float64))
        run.add_param_group({"params": [each.extra]})
        for step in range(4):
            run.zero_grad()
            (each(torch.randn(8, 6, dtype=torch.float64), step) + each.extra.sum()).backward()
            run.step()
    torch.testing.assert_close(values(model), values(other), rtol=1e-12, atol=1e-12)


def test_copies_have_hooks_of_their_own() -> None:
    model, optimizer = trained(MAKERS[0], BACKWARD)
    for again, other in (copy.deepcopy((model, optimizer)), pickle.loads(pickle.dumps((model, optimizer)))):  # noqa: S301
        train(again, other, 6, 9)
        apart, reference = trained(MAKERS[0], STEP)
        train(apart, reference, 6, 9)
        torch.testing.assert_close(values(again), values(apart), rtol=1e-12, atol=1e-12)


def test_neither_optimiser_nor_gradient_is_kept_alive() -> None:
    model, optimizer = trained(MAKERS[0], BACKWARD)
    gradient = weakref.ref(model.large.grad)
    optimizer.zero_grad()
    assert gradient() is None
    watch = weakref.ref(optimizer._watch)
    del optimizer
    gc.collect()
    assert watch() is None
    assert not model.large._post_accumulate_grad_hooks
    model(torch.randn(8, 6, dtype=torch.float64), 0).backward()


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook sees the gradient of its own process, before it is averaged with the others'."""
    model, optimizer = trained(MAKERS[0], BACKWARD)
    before = values(model)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(ParameterError, match="other processes"):
        train(model, optimizer, 6, 7)
    assert torch.equal(values(model), before)
