"""Compensated rounding: small steps on half-precision parameters are kept until they count."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from truth import bits, fill_gradients, make

import steprule as sr
from steprule import board, chain
from steprule.errors import RuleError

pytestmark = pytest.mark.cpu

HALF = [torch.bfloat16, torch.float16]


def walked(optimizer: sr.Optimizer, parameter: torch.nn.Parameter, steps: int = 1000) -> float:
    for _ in range(steps):
        parameter.grad = torch.full_like(parameter, 1e-3)
        optimizer.step()
    return float(parameter.detach()[0])


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("make_one", [lambda p, **o: sr.optim.SGD(p, **o), lambda p, **o: board.sgd.optimizer(p, **o)])
def test_a_thousand_small_steps_add_up(make_one: Any, dtype: torch.dtype) -> None:
    """From 1.0 by 1e-3 at a time: plainly rounded, bfloat16 never leaves 1.0 and float16 ends 2 % off."""
    truth = 1.0 - 1000 * float(torch.tensor(1e-3, dtype=dtype))
    kept = torch.nn.Parameter(torch.ones(4, dtype=dtype))
    assert walked(make_one([kept], lr=1.0, compensated=True), kept) == pytest.approx(truth, abs=1e-5)
    lost = torch.nn.Parameter(torch.ones(4, dtype=dtype))
    assert abs(walked(make_one([lost], lr=1.0), lost) - truth) > 0.02


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "NAdam", "Lion"])
def test_compensated_training_is_much_closer_to_the_float64_truth(name: str, dtype: torch.dtype) -> None:
    """Many small steps with the same gradients, on every class: parameters with their remainders against float64."""
    cls = getattr(sr.optim, name)
    start = make((400,), dtype=dtype)[0]
    errors = {}
    for compensated in (False, True):
        own = torch.nn.Parameter(start.detach().clone())
        truth = torch.nn.Parameter(start.detach().double())
        run, reference = cls([own], lr=1e-4, compensated=compensated), cls([truth], lr=1e-4)
        torch.manual_seed(8)
        for _ in range(100):
            own.grad = torch.randn(400).to(dtype)
            truth.grad = own.grad.double()
            run.step()
            reference.step()
        whole = own.detach().double() + (run.state[own]["remainder"].double() if compensated else 0.0)
        errors[compensated] = float((whole - truth.detach()).abs().mean())
    assert errors[True] < 0.03 * errors[False]


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_decay_alone_is_followed_where_each_step_is_far_below_a_rounding(dtype: torch.dtype) -> None:
    """A remainder of the parameter's own type is stuck at once: it rounds away what is small beside itself."""
    parameter = torch.nn.Parameter(torch.ones(4, dtype=dtype))
    optimizer = sr.optim.AdamW([parameter], lr=5e-3, weight_decay=0.01, compensated=True)
    for _ in range(400):
        parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    whole = parameter.detach().double() + optimizer.state[parameter]["remainder"].double()
    assert whole.tolist() == pytest.approx([(1 - 5e-5) ** 400] * 4, abs=2e-5)
    assert parameter.tolist() == whole.to(dtype).tolist()


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("backend", ["eager", "triton_gpu"])
def test_parameter_and_remainder_are_what_a_float32_parameter_would_be(backend: str, dtype: torch.dtype) -> None:
    """Bit for bit, where the rule keeps nothing else: tiny, large and infinite steps."""
    if backend == "triton_gpu":
        pytest.importorskip("triton")
    start = torch.tensor([1.0, -3.0, 1e-4, 200.0, 0.0, 7.0, torch.inf]).to(dtype)
    narrow, single = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.float())
    runs = [
        (narrow, sr.optim.SGD([narrow], lr=0.03, compensated=True, backend=backend)),
        (single, sr.optim.SGD([single], lr=0.03, backend="eager")),
    ]
    for step in range(12):
        gradient = (torch.randn(7, generator=torch.Generator().manual_seed(step)) * 10.0 ** (step % 7 - 4)).to(dtype)
        gradient[5] = torch.inf if step == 6 else gradient[5]
        for parameter, optimizer in runs:
            parameter.grad = gradient.to(parameter.dtype)
            optimizer.step()
    remainder = runs[0][1].state[narrow]["remainder"]
    assert remainder.dtype is torch.float32
    assert torch.equal(narrow.float() + remainder, single)
    if (backend, dtype) != ("triton_gpu", torch.bfloat16):  # Triton's interpreter cuts where a GPU rounds
        assert torch.equal(narrow, single.to(dtype))
    assert single.tolist()[5:] == [-torch.inf, torch.inf]


def test_a_remainder_saved_as_bfloat16_is_float32_from_then_on() -> None:
    """In a checkpoint, and in an optimiser that was pickled whole."""
    parameters = make((30,), dtype=torch.bfloat16)
    optimizer = sr.optim.AdamW(parameters, lr=1e-4, compensated=True)
    walked(optimizer, parameters[0], 3)
    saved = optimizer.state_dict()
    old = {**saved, "state": {0: {k: v.bfloat16() if k == "remainder" else v for k, v in saved["state"][0].items()}}}
    optimizer.load_state_dict(old)
    loaded = optimizer.state[parameters[0]]["remainder"]
    assert loaded.dtype is torch.float32
    assert torch.equal(loaded, old["state"][0]["remainder"].float())
    optimizer.state[parameters[0]]["remainder"] = old["state"][0]["remainder"]
    walked(optimizer, parameters[0], 1)
    assert optimizer.state[parameters[0]]["remainder"].dtype is torch.float32


def test_parameters_that_lose_nothing_are_what_they_are_without() -> None:
    plain, kept = make((50,)), make((50,))
    kept[0].data.copy_(plain[0].detach())
    one, other = sr.optim.Adam(plain), sr.optim.Adam(kept, compensated=True)
    for _ in range(5):
        fill_gradients(plain)
        kept[0].grad = plain[0].grad.clone()
        one.step()
        other.step()
    assert torch.equal(plain[0], kept[0])
    assert not other.state[kept[0]]["remainder"].any()


def test_a_checkpoint_keeps_the_remainder_and_one_without_starts_from_none() -> None:
    parameters = make((30,), dtype=torch.bfloat16)
    optimizer = sr.optim.AdamW(parameters, lr=1e-4, clip=1.0, compensated=True)
    walked(optimizer, parameters[0], 20)
    again = [torch.nn.Parameter(parameters[0].detach().clone())]
    other = sr.optim.AdamW(again, compensated=True)
    other.load_state_dict(optimizer.state_dict())
    pair = copy.deepcopy((again, other))
    assert walked(other, again[0], 5) == walked(pair[1], pair[0][0], 5)
    assert bits(other) == bits(pair[1])
    foreign = torch.optim.AdamW(again)
    foreign.load_state_dict({**other.state_dict(), "state": {}})
    walked(foreign, again[0], 2)
    other.load_state_dict(foreign.state_dict())
    assert "remainder" not in other.state[again[0]]
    walked(other, again[0], 1)
    assert other.state[again[0]]["remainder"].dtype is torch.float32


def test_it_composes_shows_and_pickles() -> None:
    program = chain(sr.clip_global_norm(max_norm=1.0), board.adam(lr=0.1).compensated())
    assert program.name == "clip_global_norm+adam, compensated"
    assert "remainderₜ" in sr.explain(program).formula
    assert sr.explain(program).state_bytes_per_parameter == 12
    again = pickle.loads(pickle.dumps(program))  # noqa: S301
    assert again.name == program.name
    assert again.hypers == program.hypers
    np.testing.assert_equal([slot.name for slot in again.graph.slots], ["m", "s", "remainder"])
    assert program.compensated() is program


def test_a_rule_that_stores_its_look_ahead_point_is_refused() -> None:
    with pytest.raises(RuleError, match="look-ahead"):
        board.nesterov.optimizer(make((2,)), compensated=True)
