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
    assert errors[True] < 0.5 * errors[False]


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
    assert other.state[again[0]]["remainder"].dtype is torch.bfloat16


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
