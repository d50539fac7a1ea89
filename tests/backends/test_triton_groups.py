"""State of 8 bits in GPU kernels: the bits of CPU kernels, however rows and memory lie and tensors are split."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_splits import ARRAYS, PROGRAM, Parts, bits, join, stepped, whole
from watched import watched

from steprule.backends.base import Place
from steprule.backends.triton_build import Build
from steprule.backends.triton_gpu import TritonKernel, interpreted

pytestmark = [pytest.mark.interp, pytest.mark.skipif(not interpreted(), reason="a GPU is here: `-m gpu` runs on it")]
ROWS = [(3, 768), (2, 384), (2, 471), (4, 7), (2, 2, 30), (1, 1100), (1, 1536)]
"""8 lanes after 16, 12 lanes, 15 of which one is short, short rows, and rows longer than a chunk of 512."""


def moved(values: torch.Tensor) -> torch.Tensor:
    """Return a copy that begins one element behind a multiple of 16 bytes."""
    field = torch.empty(values.numel() + 17, dtype=values.dtype)
    own = field[1:][: values.numel()].view(values.shape)
    assert own.data_ptr() % 16
    return own.copy_(values)


def cut(wholes: Parts, found: list[tuple[int, ...]]) -> tuple[Parts, list[Place]]:
    """Cut each tensor into two parts of rows, of which one may be empty; some arrays of the first begin oddly."""
    parts: Parts = []
    places: list[Place] = []
    for seed, (shape, one) in enumerate(zip(found, wholes, strict=True)):
        row = (seed + 1) % (shape[0] + 1)
        for first, last in ((0, row), (row, shape[0])):
            parts.append({name: value[first:last].clone() for name, value in one.items()})
            places.append(Place(1000 + seed, shape, (first, *(0,) * (len(shape) - 1))))
    for name in ("v", "g"):
        parts[0][name] = moved(parts[0][name])
    return parts, places


def on_a_gpu(parts: Parts, places: list[Place], after: int) -> None:
    """Take a step of GPU kernels, which touch nothing but what they are given, and no place twice in a launch."""
    arrays = {name: [part[name] for part in parts] for name in (*ARRAYS, "g")}
    kernel = TritonKernel(PROGRAM, build=Build(chunk=8, block=4, rows=2))  # a chunk is a block of groups, at least
    counts = kernel.table_of(np.zeros((len(parts), 1), np.float32), torch.device("cpu")).fill_(after)
    batch = kernel.batch(arrays, range(len(parts)), counts, places)
    with watched([*batch._tables, *(tensor for own in arrays.values() for tensor in own)]):
        batch.step(np.full((len(parts), 1), 0.01))


def test_gpu_kernels_have_the_bits_of_cpu_kernels_wherever_tensors_are_split() -> None:
    """Wide blocks and narrow ones; chunks of whole rows, and several of one row."""
    (before, places), (after, _) = whole(ROWS), whole(ROWS)
    stepped(before, places, steps=1)
    stepped(after, places, steps=2)
    parts, others = cut(before, ROWS)
    on_a_gpu(parts, others, after=1)
    assert bits([join(parts[2 * i], parts[2 * i + 1]) for i in range(len(ROWS))]) == bits(after)
