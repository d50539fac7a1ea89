"""Slots with a type of their own: float32 at least, whatever parameters and the option `state` are."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from told import refused

import steprule as sr
from steprule import rule, slot

pytestmark = pytest.mark.null


@rule
def kept_wide(theta, g, m, fine=slot(dtype="float32"), *, lr=0.1):
    """Add numbers that bfloat16 would lose, and others as it comes."""
    return theta - lr * g, m + g, fine + 1e-3 * g


@pytest.mark.parametrize("state", [None, "bfloat16", {"m": "bfloat16"}], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_a_wide_slot_is_float32_at_least_and_others_are_as_asked(dtype: torch.dtype, state: Any) -> None:
    p = torch.nn.Parameter(torch.ones(3, dtype=dtype))
    optimizer = kept_wide.optimizer([p], state=state, backend="eager")
    for _ in range(600):
        p.grad = torch.ones_like(p)
        optimizer.step()
    own = optimizer.state[p]
    assert own["fine"].dtype == (torch.float64 if dtype is torch.float64 else torch.float32)
    assert own["m"].dtype == (torch.bfloat16 if state else dtype)
    torch.testing.assert_close(own["fine"].double(), torch.full((3,), 0.6, dtype=torch.float64), rtol=1e-5, atol=0)


def test_what_was_narrow_in_a_checkpoint_is_wide_from_then_on() -> None:
    p = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = kept_wide.optimizer([p], backend="eager")
    p.grad = torch.ones_like(p)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][0]["fine"] = saved["state"][0]["fine"].bfloat16()
    optimizer.load_state_dict(saved)
    optimizer.step()
    assert optimizer.state[p]["fine"].dtype == torch.float32
    again = kept_wide.optimizer([p], state="bfloat16", backend="eager")
    again.load_state_dict(optimizer.state_dict())
    assert again.state[p]["fine"].dtype == torch.float32
    assert again.state[p]["m"].dtype == torch.bfloat16


def test_another_type_and_another_format_are_refused() -> None:
    assert 'dtype="float32"' in refused(lambda: slot(dtype="int8")).fix  # type: ignore[arg-type]
    made = [torch.nn.Parameter(torch.ones(3))]
    error = refused(lambda: kept_wide.optimizer(made, state={"fine": "8bit"}), sr.errors.HyperparameterError)
    assert "keeps in float32" in error.what
