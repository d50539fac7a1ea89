"""Slots in 8 bits: a kernel computes what is not coded after what is, from what was there before."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import steprule as sr
from steprule import abs as magnitude
from steprule import columns, maximum, rows, rule, slot, sqrt, where

pytestmark = pytest.mark.cpu


@rule
def late(theta: Any, g: Any, m: Any, w: Any, v: Any = slot(low=0), *, lr: Any = 0.1) -> Any:
    """The old m and θ are asked for after their successors are known; conditions, and a root, in both halves; sizes."""
    both = (g > w) & (m < 1)
    new = where(both, g, 0.5 * g)
    least, size = maximum(v, g * g), columns(g) / rows(g)
    return 0.1 * w - lr * m / (sqrt(least) + magnitude(g) + size), new, where(both | (g < -2), theta, w), least


def run(backend: str, watch: Any, alias: bool) -> list[torch.Tensor]:
    dice = torch.Generator().manual_seed(1)
    shapes = [(16, 768), (40, 301), (1, 4096), (5000,)]  # a vector is one column, and one row of groups
    owned = [torch.nn.Parameter(torch.randn(shape, generator=dice)) for shape in shapes]
    own = sr.Optimizer(owned, late, backend=backend, watch=watch, state={"m": "8bit-all", "v": "8bit-all"})
    for _ in range(3):
        for parameter in owned:
            parameter.grad = torch.randn(parameter.shape, generator=dice)
        if alias:
            owned[0].grad = owned[0].data
        own.step()
    return [tensor.clone() for p in owned for tensor in (p.detach(), *own.state[p].values()) if tensor.ndim]


@pytest.mark.parametrize(("watch", "alias"), [(None, False), (["stalled"], True)])
def test_what_is_computed_last_is_made_of_what_was_there_before(watch: Any, alias: bool) -> None:
    """Bit for bit as torch's operations do it; also where a gauge asks what θ has become, and θ is its own gradient."""
    found, told = run("numba_cpu", watch, alias), run("eager", watch, alias)
    assert len(found) == len(told) == 24
    for one, other in zip(found, told, strict=True):
        assert torch.equal(one, other)
