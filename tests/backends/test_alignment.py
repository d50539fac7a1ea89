"""A GPU kernel takes the blocks of a chunk the wide way where all that it moves begins at a multiple of 16 bytes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from triton.runtime.interpreter import TensorHandle

import steprule as sr
from steprule import board, chain
from steprule.backends.triton_build import Build, building
from steprule.backends.triton_gpu import interpreted

pytestmark = [
    pytest.mark.interp,
    pytest.mark.skipif(not interpreted(), reason="a GPU is here, and parameters are in main memory"),
]
CLIPPED = chain(sr.clip_global_norm(max_norm=0.5), board.adam)
SIZES = (1, 32, 19, 0)
ROUNDINGS = [("float32", "nearest"), ("float64", "nearest"), ("bfloat16", "compensated")]


def at(offset: int, values: torch.Tensor) -> torch.Tensor:
    """Return a copy that begins so many elements behind a multiple of 16 bytes, with known neighbours."""
    field = torch.full((values.numel() + 32,), 7, dtype=values.dtype)
    first = (-field.data_ptr() // field.itemsize) % (16 // field.itemsize) + offset
    own = field[first : first + values.numel()]
    own.copy_(values)
    assert not values.numel() or own.data_ptr() % 16 == offset * values.itemsize % 16
    return own


def stepped(places: dict[int, int], dtype: str, rounding: str) -> list[torch.Tensor]:
    """Take a step; gradients are at these places, by tensor, and the second parameter is where 9 says."""
    torch.manual_seed(4)
    real = getattr(torch, dtype)
    values, gradients = ([torch.randn(size).to(real) for size in SIZES] for _ in range(2))
    parameters = [torch.nn.Parameter(at(places.get(9, 0) if n == 1 else 0, own)) for n, own in enumerate(values)]
    for n, parameter in enumerate(parameters):
        parameter.grad = at(places.get(n, 0), gradients[n])
    with building(Build(chunk=16, block=8)):
        optimizer = sr.Optimizer(parameters, CLIPPED, backend="triton_gpu", rounding=rounding)
        optimizer.step()
    states = [value for parameter in parameters for value in optimizer.state[parameter].values()]
    return [value.detach().clone() for value in [*parameters, *states]]


@pytest.mark.parametrize(("dtype", "rounding"), ROUNDINGS)
def test_where_tensors_begin_changes_no_bit(dtype: str, rounding: str) -> None:
    for one, other in zip(*(stepped(places, dtype, rounding) for places in ({}, {1: 1, 2: 3, 9: 1})), strict=True):
        assert torch.equal(one, other)


def test_what_begins_elsewhere_costs_its_own_chunks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernels say of a pointer is true, and they say it of all others: these are read and written widely."""
    said: list[int] = []
    original = TensorHandle.set_attr

    def checked(handle: Any, name: str, multiple: Any) -> None:
        if name == "tt.divisibility" and handle.dtype.is_ptr():
            said.append(int(handle.data.flat[0]))
            assert multiple == [16]
            assert said[-1] % 16 == 0
        original(handle, name, multiple)

    monkeypatch.setattr(TensorHandle, "set_attr", checked)
    wide = {}
    for name, places in {"none": {}, "a gradient": {1: 1}, "a parameter": {9: 1}, "all": {1: 1, 2: 2}}.items():
        said.clear()
        stepped(places, "float32", "nearest")
        wide[name] = len(said)
    # the norm reads one array, the update reads four and writes three; tensors have no whole block, four and two
    assert wide == {"none": 6 * 8, "a gradient": 2 * 8, "a parameter": 2 * 8 + 4, "all": 0}
