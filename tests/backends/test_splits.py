"""State of few bits does not depend on how tensors are cut: by rows, as shards are, into chunks, or among threads."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
import torch

import steprule as sr
from steprule import rule, slot
from steprule.backends import BACKENDS, numba_cpu
from steprule.backends.base import Place
from steprule.backends.chunks import chunks
from steprule.plan.program import lower
from steprule.plan.schedule import schedule
from steprule.plan.storage import layout

pytestmark = pytest.mark.cpu


@rule
def own(theta, g, m, v=slot(low=0), *, lr=0.01, t):
    """A rule that the package does not know."""
    m = 0.9 * m + 0.1 * g
    v = 0.999 * v + 0.001 * g**2
    return theta - lr * m / (sr.sqrt(v / (1 - 0.999**t)) + 1e-8), m, v


PROGRAM = lower(schedule(own.graph), layout(own.graph, "float32", "nearest", {"m": "8bit", "v": "8bit"}))
ARRAYS = ("theta", "m", "v", "m_scale", "v_scale")
Parts = list[dict[str, torch.Tensor]]


def shapes(count: int) -> list[tuple[int, ...]]:
    """Draw shapes of two and three dimensions: short rows, long ones, and of a multiple of 16."""
    random = np.random.default_rng(0)
    rows = random.integers(1, 9, count)
    lengths = np.where(random.random(count) < 0.3, 16 * random.integers(1, 90, count), random.integers(1, 700, count))
    return [(int(row), int(length)) if place % 5 else (int(row), 2, int(length))
            for place, (row, length) in enumerate(zip(rows, lengths, strict=True))]  # fmt: skip


def made(shape: tuple[int, ...], seed: int) -> dict[str, torch.Tensor]:
    """Return a parameter, its gradient and its state of zeros."""
    generator = torch.Generator().manual_seed(seed)
    width = -(-prod(shape[1:]) // 32)
    theta, g = (torch.randn(shape, generator=generator) for _ in range(2))
    g[torch.rand(shape, generator=generator) < 0.2] = 0.0
    codes = {"m": torch.zeros(shape, dtype=torch.int8), "v": torch.zeros(shape, dtype=torch.uint8)}
    return {"theta": theta, "g": g, **codes} | {
        f"{name}_scale": torch.zeros(shape[0], width, dtype=torch.uint8) for name in codes
    }


def stepped(parts: Parts, places: list[Place], backend: str = "numba_cpu", steps: int = 3) -> None:
    """Take steps of one batch."""
    arrays = {name: [part[name] for part in parts] for name in (*ARRAYS, "g")}
    batch = BACKENDS[backend].kernel(PROGRAM).batch(arrays, [0] * len(parts), torch.zeros(0), places)
    for t in range(1, steps + 1):
        batch.set_gradients(arrays["g"])
        batch.step(np.array([[0.01, float(t)]]))
        batch.clear()


def whole(found: list[tuple[int, ...]]) -> tuple[Parts, list[Place]]:
    """Make tensors of all shapes."""
    parts = [made(shape, seed) for seed, shape in enumerate(found)]
    return parts, [Place(1000 + seed, shape, (0,) * len(shape)) for seed, shape in enumerate(found)]


def split(found: list[tuple[int, ...]]) -> tuple[Parts, list[Place]]:
    """Make the same tensors, each in two parts, of which one may be empty."""
    random = np.random.default_rng(1)
    parts: Parts = []
    places: list[Place] = []
    for seed, (shape, one) in enumerate(zip(found, made_all(found), strict=True)):
        row = int(random.integers(0, shape[0] + 1))
        for first, last in ((0, row), (row, shape[0])):
            parts.append({name: value[first:last].clone() for name, value in one.items()})
            places.append(Place(1000 + seed, shape, (first, *(0,) * (len(shape) - 1))))
    return parts, places


def made_all(found: list[tuple[int, ...]]) -> Parts:
    return [made(shape, seed) for seed, shape in enumerate(found)]


def bits(parts: Parts) -> bytes:
    """Return every bit of parameters and state."""
    return b"".join(part[name].contiguous().numpy().tobytes() for name in ARRAYS for part in parts)


def test_a_thousand_tensors_split_at_any_row_have_the_state_of_the_whole() -> None:
    found = shapes(1000)
    (one, places), (two, others) = whole(found), split(found)
    stepped(one, places)
    stepped(two, others)
    assert bits([join(two[2 * i], two[2 * i + 1]) for i in range(len(found))]) == bits(one)
    assert sum(int(part["v"].any()) for part in one) == len(found)


def join(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: torch.cat([one[name], other[name]]) for name in ARRAYS}


@pytest.mark.parametrize("length", [512, 1536])
def test_the_length_of_chunks_changes_no_bit(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [*shapes(60), (3, 40000)]
    (one, places), (two, others) = whole(found), whole(found)
    stepped(one, places)
    monkeypatch.setattr(numba_cpu, "CHUNK", length)
    stepped(two, others)
    assert bits(two) == bits(one)


def test_torch_operations_have_the_same_bits_of_state() -> None:
    """Split, too. One difference: what their float32 arithmetic rounds in another order; here it does not."""
    found = shapes(40)
    (one, places), (two, others) = whole(found), split(found)
    stepped(one, places, "eager")
    stepped(two, others, "eager")
    assert bits([join(two[2 * i], two[2 * i + 1]) for i in range(len(found))]) == bits(one)


def test_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba_cpu, "PARALLEL_FROM", {True: 4096, False: 4096})
    before, ends = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            parts, places = whole([(300, 700), (9, 600)])
            stepped(parts, places)
            ends.append(bits(parts))
    finally:
        torch.set_num_threads(before)
    assert ends[0] == ends[1]


def test_chunks_end_where_rows_or_blocks_of_groups_end() -> None:
    sizes, rows = [7 * 9, 3 * 5000, 4 * 512, 0], [9, 5000, 512, 10]
    cut = chunks(sizes, 1024, rows)
    assert np.bincount(cut[:, 0], weights=cut[:, 2], minlength=4).tolist() == sizes
    for tensor, start, count in cut.tolist():
        ends = (start + count) % rows[tensor]
        assert (start % rows[tensor]) % 512 == 0 or start % rows[tensor] == 0
        assert ends == 0 or ends % 512 == 0
        assert 0 < count <= 1024
