"""Reductions and walks over one, two and many chunks, on every backend, as the interpreter has them.

A chunk is made short, so that few elements make many; and so are blocks and rows of GPU kernels.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pytest
import torch

import steprule as sr
from steprule import rule, slot
from steprule.backends.base import Batch
from steprule.backends.chunks import chunks
from steprule.backends.triton_gpu import TritonKernel, interpreted
from steprule.graph.evaluate import evaluate
from steprule.graph.graph import Graph, Slot
from steprule.graph.node import Rank, make, read
from steprule.optim.tensors import single
from steprule.plan.program import lowered
from steprule.plan.schedule import Plan, schedule
from steprule.plan.tables import array_rows
from strategies import Problem, run

KINDS = ["eager", "plain", "compiled", "triton"]
MARKS = [pytest.param(kind, marks=pytest.mark.interp if kind == "triton" else pytest.mark.cpu) for kind in KINDS]
LENGTH = 8
SIZES = [0, 1, LENGTH - 1, LENGTH, LENGTH + 1, 2 * LENGTH - 1, 2 * LENGTH, 2 * LENGTH + 1, 5 * LENGTH + 3, 12 * LENGTH]
FEW_SIZES = [1, LENGTH, 0, LENGTH + 1, 5 * LENGTH + 3]
"""For Triton's interpreter, which takes its time; so many tensors that the last block of rows is not full."""


@rule
def reducing(
    theta, g, total=slot(rank="tensor"), average=slot(rank="tensor"), most=slot(rank="tensor"),
    length=slot(rank="tensor"), all_total=slot(rank="tensor"), all_length=slot(rank="tensor"), *, lr=1.0
):  # fmt: skip
    """One number a reduction, which ends in the last pass; of what is not 0 where nothing is read."""
    return (
        theta - lr * g,
        sr.sum(g + 2),
        sr.mean(g + 2),
        sr.max(g + 2),
        sr.norm(g + 2),
        sr.global_sum(g + 2) + lr,
        sr.global_norm(g + 2) + lr,
    )


@rule
def spreading(theta, g, total, average, most, length, all_total, all_length, *, lr=1.0):
    """The same numbers in every element, which need a pass before."""
    return (
        theta - lr * g,
        0 * theta + sr.sum(g + 2),
        0 * theta + sr.mean(g + 2),
        0 * theta + sr.max(g + 2),
        0 * theta + sr.norm(g + 2),
        0 * theta + sr.global_sum(g + 2) + lr,
        0 * theta + sr.global_norm(g + 2) + lr,
    )


def the_problem(program: Any, gradients: list[np.ndarray], seed: int = 0) -> Problem:
    rng = np.random.default_rng(seed)
    arrays: list[dict[str, Any]] = []
    for g in gradients:
        slots = {s.name: rng.normal(size=g.shape if s.rank is Rank.ELEMENT else ()) for s in program.graph.slots}
        arrays.append({"theta": rng.normal(size=g.shape), "g": g, **slots})
    return Problem(arrays, [{"lr": 0.5 * (1 + index % 2), "t": 3.0} for index in range(len(gradients))])


def gradients_with(value: float | None, place: int, sizes: list[int]) -> list[np.ndarray]:
    """Give a gradient of every size, whose last chunk (-1), first (0) or middle one holds a value."""
    found: list[np.ndarray] = []
    for size in sizes:
        g = np.random.default_rng(size).normal(size=size)
        if value is not None and size:
            g[{-1: -1, 0: 0, 1: size // 2}[place]] = value
        found.append(g)
    return found


def held_against(program: Any, data: Problem, kind: str) -> None:
    truth = evaluate(program.graph, data.arrays, data.numbers)
    found = run(schedule(program.graph), data, kind)
    for size, new, expected in zip(map(np.size, (a["g"] for a in data.arrays)), found, truth, strict=True):
        for name, value in new.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-12, atol=1e-12, err_msg=f"{name} of {size}")


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("kind", MARKS)
@pytest.mark.parametrize("program", [reducing, spreading], ids=lambda program: program.name)
def test_every_reduction_over_one_two_and_many_chunks_is_as_in_the_interpreter(program: Any, kind: str) -> None:
    """The greatest, NaN or infinity stands in the last element, in the first, or in between."""
    cases = [(9.0, -1), (np.nan, -1), (9.0, 0), (9.0, 1), (np.inf, 0), (-np.inf, -1)]
    sizes = FEW_SIZES if kind == "triton" else SIZES
    for value, place in cases[:2] if kind == "triton" else cases:
        held_against(program, the_problem(program, gradients_with(value, place, sizes)), kind)
    held_against(program, the_problem(program, [-abs(g) - 1 for g in gradients_with(None, 0, sizes)]), kind)


def test_chunks_cover_every_element_once() -> None:
    for length in (1, 4, 8):
        pieces = chunks(SIZES, length)
        assert all(0 < count <= length for count in pieces[:, 2])
        for tensor, size in enumerate(SIZES):
            covered = [i for t, start, count in pieces if t == tensor for i in range(start, start + count)]
            assert covered == list(range(size))


@pytest.mark.parametrize("kind", MARKS)
def test_an_array_that_becomes_what_another_was_gets_that_and_not_what_it_is_now(kind: str) -> None:
    theta, m = read("theta"), read("m")
    slots = (Slot("m"), Slot("s"))
    graph = Graph("swapped", "theta", "g", slots, (), make("add", theta, m), (make("neg", make("neg", theta)), theta))
    data = Problem(
        [{name: np.arange(5.0) + place for place, name in enumerate(("theta", "g", "m", "s"))}] * 2, [{}] * 2
    )
    for new in run(schedule(graph), data, kind):
        assert new["m"].tolist() == new["s"].tolist() == list(range(5))
        assert new["theta"].tolist() == [2, 4, 6, 8, 10]


# GPU kernels -------------------------------------------------------------------------------------------


@rule
def moving(
    theta, g, m, k=slot(rank="tensor", init=1.0), h=slot(rank="host", init=2.0), e=slot(rank="host"),
    *, lr=0.1, beta=0.5, t
):  # fmt: skip
    """Slots of every rank, arithmetic of the host that depends on the group, the step and a slot, and a step count."""
    rate = lr / (1 - beta**t) * h
    m = beta * m + (1 - beta) * g * sr.minimum(1, 4 / (1 + sr.global_norm(g)))
    return theta - rate * m / (1 + k) + e * g, m, beta * k + sr.mean(abs(g)), h + lr * t, beta


@rule
def at_once(theta, g, m, k=slot(rank="tensor"), h=slot(rank="host", init=1.0), *, lr=0.1, t):
    """One pass, which needs numbers of the host before anything has been reduced."""
    m = m + g / sr.sqrt(t)
    return theta - lr * h * m, m, k + sr.max(m), h * 0.5


class Device:
    """A Triton batch of tensors that all have hyperparameters, counts and host slots of their own."""

    def __init__(
        self,
        program: Any,
        shapes: Sequence[tuple[int, ...]] = tuple((size,) for size in FEW_SIZES),
        *,
        dtype: torch.dtype = torch.float64,
        guarded: bool = False,
        misaligned: Collection[int] = (),
    ) -> None:
        self.program, self.dtype = program, dtype
        self.plan: Plan = schedule(program.graph, guarded=guarded)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        rng = np.random.default_rng(1)
        graph = program.graph
        self.arrays = [
            {name: self.rounded(rng.normal(size=rank.shape(shape)))
             for name, rank in graph.ranks.items() if rank > Rank.TENSOR}
            for shape in shapes
        ]  # fmt: skip
        self.numbers: list[dict[str, float]] = []
        for row, own in enumerate(self.arrays):
            own |= {s.name: np.array(0.25 + row) for s in graph.slots if s.rank is Rank.TENSOR}
            hosts = {s.name: 1.0 + 0.125 * row for s in graph.slots if s.rank is Rank.HOST}
            self.numbers.append({"lr": 0.125 * (row + 1), "beta": 0.5 + row / 32, "t": float(row + 1), **hosts})
            own |= {name: np.array(value) for name, value in hosts.items()}
        self.hosts = ["t", *(s.name for s in graph.slots if s.rank is Rank.HOST)]
        types = {s.name: single(dtype) if s.single else dtype for s in graph.slots}
        self.tensors = {
            n: [self.tensor(own[n], types.get(n, dtype), row in misaligned) for row, own in enumerate(self.arrays)]
            for n in array_rows(self.plan)
        }
        before = [[number[name] - (name == "t") for name in self.hosts] for number in self.numbers]
        self.counts = torch.tensor(before, dtype=torch.float64, device=self.device)
        kernel = TritonKernel(lowered(self.plan, str(dtype).removeprefix("torch.")))
        self.batch = kernel.batch(self.tensors, range(len(self.arrays)), self.counts)
        self.hyper = np.array([[number[hyper.name] for hyper in graph.hypers] for number in self.numbers])

    def rounded(self, values: np.ndarray) -> np.ndarray:
        return torch.tensor(values).to(self.dtype).double().numpy()

    def tensor(self, values: Any, dtype: torch.dtype, misaligned: bool) -> torch.Tensor:
        values = torch.tensor(np.asarray(values), dtype=dtype, device=self.device)
        if not (misaligned and values.dim()):
            return values
        field = torch.cat([values.new_full((1,), 77.0), values.ravel(), values.new_full((9,), 77.0)])
        return field[1 : 1 + values.numel()].view(values.shape)

    def step(self, gradients: list[np.ndarray] | None = None) -> None:
        if gradients is not None:
            for own, tensor, new in zip(self.arrays, self.tensors["g"], gradients, strict=True):
                own["g"] = new
                tensor.copy_(torch.tensor(new))
        self.batch.step(self.hyper)
        self.batch.clear()

    def expect(self) -> None:
        """Take the step in the interpreter."""
        news = evaluate(self.program.graph, self.arrays, self.numbers)
        for own, number, new in zip(self.arrays, self.numbers, news, strict=True):
            own |= new
            number |= {name: float(new[name]) for name in self.hosts if name != "t"} | {"t": number["t"] + 1}

    def compare(self, tolerance: float = 1e-12) -> None:
        """Hold every array, slot and count against the interpreter's."""
        for row, own in enumerate(self.arrays):
            for name, tensors in self.tensors.items():
                found = tensors[row].double().cpu().numpy()
                np.testing.assert_allclose(
                    found, own[name], rtol=tolerance, atol=tolerance, err_msg=f"{name} of tensor {row}"
                )
            counted = dict(zip(self.hosts, self.counts[row].tolist(), strict=True))
            assert counted["t"] == self.numbers[row]["t"] - 1
            for name in self.hosts[1:]:
                np.testing.assert_allclose(counted[name], self.numbers[row][name], rtol=1e-14)


@pytest.mark.interp
@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_narrower_is_computed_in_float32_and_rounded_once_on_a_gpu(dtype: torch.dtype) -> None:
    """Numbers of the host and reductions are float64 all the same."""
    device = Device(at_once, dtype=dtype)
    device.step()
    device.expect()
    device.compare({torch.float32: 2e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}[dtype])
    exact = torch.cat([torch.tensor(np.asarray(own["m"])) for own in device.arrays]).float().to(dtype)
    found = torch.cat([tensor.cpu() for tensor in device.tensors["m"]])
    if not (dtype is torch.bfloat16 and interpreted()):  # which cuts off what a GPU rounds
        assert (found == exact).double().mean() > (0.5 if dtype is torch.float32 else 0.98)


@pytest.mark.interp
@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("program", [moving, at_once], ids=lambda program: program.name)
def test_a_step_that_is_left_out_changes_nothing_on_a_gpu_and_the_next_is_taken(program: Any) -> None:
    """Because of `found_inf`, or of one element, of the first tensor or the last, that is NaN or infinite."""
    device = Device(program, guarded=True)
    good = [own["g"] for own in device.arrays]
    device.step()
    device.expect()
    for value, row, place in ((np.nan, 0, 0), (-np.inf, 4, -1)):
        bad = [g.copy() for g in good]
        bad[row][place] = value
        kept = {name: [t.clone() for t in tensors] for name, tensors in device.tensors.items() if name != "g"}
        counts = device.counts.clone()
        device.step(bad)
        for name, before in kept.items():
            for one, other in zip(before, device.tensors[name], strict=True):
                assert np.array_equal(one.cpu(), other.cpu(), equal_nan=True), name
        assert torch.equal(counts, device.counts)
        assert device.batch.stopped()
    device.batch.leave_out_if(torch.tensor(1.0, device=device.device))
    device.step(good)
    assert torch.equal(counts, device.counts)
    assert not device.batch.stopped()
    device.compare()
    device.batch.leave_out_if(torch.tensor(0.0, device=device.device))
    device.step()
    device.expect()
    device.compare()


@pytest.mark.interp
@pytest.mark.usefixtures("small_chunks")
def test_batches_of_two_dtypes_share_what_is_over_all_tensors_on_a_gpu() -> None:
    """Also where the sum is ready only after the last pass."""
    from steprule.backends.base import run as run_all

    @rule
    def counting(theta, g, k=slot(rank="tensor"), n=slot(rank="tensor"), *, lr=0.1, t):
        return theta - lr * g / (1 + sr.global_norm(g)), sr.global_sum(theta) + 0 * k, sr.global_norm(g) + sr.sum(g) + n

    devices = [Device(counting), Device(counting, dtype=torch.float32)]
    work: list[tuple[Batch, Any]] = [(device.batch, device.hyper) for device in devices]
    assert run_all(work)
    arrays = [own for device in devices for own in device.arrays]
    numbers = [number for device in devices for number in device.numbers]
    for own, number, new in zip(arrays, numbers, evaluate(counting.graph, arrays, numbers), strict=True):
        own |= new
        number["t"] += 1
    for device in devices:
        device.compare(1e-6)
