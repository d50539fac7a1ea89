"""Optimisers with state of 8 bits on a GPU: what they store, leave out, save and capture; under the interpreter."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from stored_truth import StoredTruth
from test_state_formats import exactly, of_few_bits
from truth import bits

import steprule as sr
from fake_device import FakeDevice
from steprule import columns, rademacher, rows, rule, where
from steprule.backends import triton_device
from steprule.backends.triton_build import Build, building
from steprule.backends.triton_gpu import interpreted
from steprule.plan import groups

pytestmark = [pytest.mark.interp, pytest.mark.skipif(not interpreted(), reason="a GPU is here: `-m gpu` runs on it"),
              pytest.mark.usefixtures("small")]  # fmt: skip


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let small tensors have groups, and few elements fill several chunks."""
    monkeypatch.setattr(groups, "LEAST", 30)
    with building(Build(chunk=8, block=4, rows=2)):
        yield


def seven_bytes(*shapes: tuple[int, ...], **options: Any) -> Any:
    """Make an optimiser of seven bytes a parameter."""
    torch.manual_seed(1)
    parameters = [torch.nn.Parameter(of_few_bits(*shape).bfloat16()) for shape in shapes]
    told: Any = {"state": "8bit", "rounding": "compensated8", "seed": 2**40, "backend": "triton_gpu"}
    return exactly.optimizer(parameters, **told | options)


def fill(optimizer: Any, number: int, *, flaw: bool = False) -> None:
    """Write gradients of this number, in place where there are some; the last element may be NaN."""
    torch.manual_seed(number)
    for parameter in optimizer.param_groups[0]["params"]:
        new = of_few_bits(*parameter.shape).to(parameter.dtype)
        parameter.grad = new if parameter.grad is None else parameter.grad.copy_(new)
    if flaw:
        new.view(-1)[-1] = torch.nan
        parameter.grad.copy_(new)


def test_seven_bytes_are_what_the_definitions_say_and_a_gradient_that_is_not_finite_changes_none() -> None:
    """Of rows with a tail, short ones, three dimensions, and of small tensors, which are float32."""
    optimizer = seven_bytes((1, 600), (2, 45), (5,), (2, 2, 16), nonfinite="skip")
    truth = StoredTruth(optimizer)
    for number in range(2):
        fill(optimizer, number)
        optimizer.param_groups[0]["params"][1 - number].grad = None
        truth.step()
        optimizer.step()
        truth.agrees()
    before = bits(optimizer)
    fill(optimizer, 2, flaw=True)
    optimizer.step()
    assert bits(optimizer) == before
    assert optimizer.gauges()["skipped"] == 1
    told = sr.explain(optimizer)
    assert told.backend == "triton_gpu"
    assert "stochastic_uint8" in told.source


@rule
def shaken(theta, g, m, *, lr=0.125, beta=0.5):
    """Float32 arithmetic is exact; what is drawn and its place matter, and what lies beside a row would be large."""
    m = beta * m + where(abs(g) + abs(theta) > 0, g * rademacher(), 8)
    return theta - lr * m + 0.25 * rademacher(), m


def test_what_a_rule_draws_beside_slots_of_8_bits_is_what_it_draws_anywhere() -> None:
    """In rows of several blocks, the second parameter of them."""
    ends = []
    for backend in ("triton_gpu", "eager"):
        torch.manual_seed(1)
        parameters = [torch.nn.Parameter(of_few_bits(*shape)) for shape in ((5,), (1, 600), (3, 20))]
        optimizer = shaken.optimizer(parameters, state="8bit", seed=3, backend=backend)
        fill(optimizer, 0)
        optimizer.step()
        ends.append(bits(optimizer))
    assert ends[0] == ends[1]


def test_a_checkpoint_goes_from_a_gpu_to_both_and_all_go_on_with_the_same_bits() -> None:
    shapes = [(2, 70), (3, 40)]
    ends = [seven_bytes(*shapes)]
    fill(ends[0], 0)
    ends[0].step()
    file = io.BytesIO()
    torch.save([ends[0].state_dict(), [p.detach() for p in ends[0].param_groups[0]["params"]]], file)
    for backend in ("triton_gpu", "eager"):
        file.seek(0)
        saved, parameters = torch.load(file, weights_only=True)
        other = seven_bytes(*shapes, backend=backend)
        for parameter, value in zip(other.param_groups[0]["params"], parameters, strict=True):
            parameter.data.copy_(value)
        other.load_state_dict(saved)
        ends.append(other)
    for optimizer in ends:
        fill(optimizer, 1)
        optimizer.step()
    assert bits(ends[0]) == bits(ends[1]) == bits(ends[2])


def test_a_graph_replays_steps_of_8_bits_as_they_are_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units and codes are written where they are, whatever the host sends; it asks nothing of them."""
    fake = FakeDevice()
    monkeypatch.setitem(triton_device.DEVICES, "cpu", lambda where: fake)
    ends = []
    for captured in (False, True):
        rate = torch.tensor(0.125, dtype=torch.float64)
        optimizer = seven_bytes((2, 40), (5,), lr=rate, capturable=True, clip=1.0)
        fill(optimizer, 0)
        optimizer.step()
        step = optimizer.step
        if captured:
            with fake.capture() as graph:
                optimizer.step()
            step = lambda graph=graph: fake.replay(graph)  # noqa: E731
        for number in (1, 2):
            fill(optimizer, number)
            rate.fill_(0.125 / number)
            step()
        ends.append(bits(optimizer))
    assert ends[0] == ends[1]


def test_sizes_and_groups_of_a_vector_are_each_their_own() -> None:
    """As a matrix it is one column; its groups lie in one row."""

    @rule
    def sized(theta, g, m, *, lr=0.5):
        m = 0.5 * m + g
        return theta - lr * m * columns(g) / rows(g), m

    made = []
    for backend in ("triton_gpu", "eager"):
        torch.manual_seed(1)
        own = [torch.nn.Parameter(of_few_bits(*shape)) for shape in ((64,), (2, 45))]
        optimizer = sized.optimizer(own, state="8bit-all", seed=5, backend=backend)
        for number in range(2):
            fill(optimizer, number)
            optimizer.step()
        made.append(bits(optimizer))
    assert made[0] == made[1]
