"""CUDA graphs, and a host that runs ahead, on a device of tests: it makes nothing in a capture, and takes its time.

The truth is the same optimiser, step by step, without any capture: results are equal bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from truth import CLIPPED, bits, corrected_adam, make

import steprule as sr
from fake_device import FakeDevice
from steprule.backends import triton_device
from steprule.backends.triton_gpu import interpreted

pytestmark = [pytest.mark.interp, pytest.mark.skipif(not interpreted(), reason="a GPU is here: `-m gpu` runs on it")]
GPU = "triton_gpu"
MADE = ("empty", "pinned", "event", "kernel", "tensor")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    own = FakeDevice()
    monkeypatch.setitem(triton_device.DEVICES, "cpu", lambda where: own)
    return own


def parameters_of(optimizer: sr.Optimizer) -> list[torch.nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def mixed(program: Any = None, **options: Any) -> sr.Optimizer:
    """Tensors of two dtypes under one norm, which are two batches."""
    torch.manual_seed(3)
    parameters = [*make((5,), (3, 2)), *make((4,), dtype=torch.float64)]
    if program is None:
        return sr.optim.AdamW(parameters, clip=0.5, backend=GPU, **options)
    return sr.Optimizer(parameters, program, backend=GPU, **options)


def fill(optimizer: sr.Optimizer, number: int, *, inf: bool = False) -> None:
    """Give gradients of a number; those that are there are written in place, as a graph needs it."""
    draws = torch.Generator().manual_seed(number)
    for parameter in parameters_of(optimizer):
        new = torch.randn(parameter.shape, generator=draws, dtype=torch.float64).to(parameter.dtype)
        if parameter.grad is None:
            parameter.grad = torch.empty_like(parameter)
        parameter.grad.copy_(new)
    if inf:
        parameter.grad[0] = torch.inf


def twice(life: Callable[[bool], sr.Optimizer]) -> None:
    """Compare a life with captures and one without, bit for bit."""
    assert bits(life(True)) == bits(life(False))


@pytest.mark.parametrize("program", [None, CLIPPED], ids=["AdamW", "clipped"])
def test_a_capture_makes_nothing_and_a_replay_is_a_step(fake: FakeDevice, program: Any) -> None:
    """With rates in tensors, a guard, and a scaler that finds an overflow; steps without a graph come between."""

    def life(captured: bool) -> sr.Optimizer:
        rate, found = torch.tensor(0.1, dtype=torch.float64), torch.zeros(())
        optimizer: Any = mixed(program, lr=rate, capturable=True, nonfinite="skip")
        optimizer.found_inf = found
        fill(optimizer, 0)
        optimizer.step()
        step = optimizer.step
        if captured:
            before, made = bits(optimizer), [fake.counted[what] for what in MADE]
            with fake.capture() as graph:
                optimizer.step()
            assert bits(optimizer) == before, "captured, not done"
            assert [fake.counted[what] for what in MADE] == made
            step = lambda: fake.replay(graph)  # noqa: E731
        for number in range(1, 6):
            fill(optimizer, number, inf=number == 2)
            rate.fill_(0.1 / number)
            found.fill_(number == 3)
            (optimizer.step if number == 4 else step)()
        return optimizer

    twice(life)


def test_several_steps_in_a_graph_send_what_each_of_them_sent(fake: FakeDevice) -> None:
    def life(captured: bool) -> sr.Optimizer:
        optimizer = mixed(capturable=True)
        fill(optimizer, 0)
        optimizer.step()
        group = optimizer.param_groups[0]

        def three() -> None:
            for rate in (0.3, 0.01, 0.3):
                group["lr"] = rate
                optimizer.step()

        step = three
        if captured:
            with fake.capture() as graph:
                three()
            step = lambda: fake.replay(graph)  # noqa: E731
        for number in range(2):
            fill(optimizer, number)
            step()
            group["lr"] = 7.0  # a step without the graph leaves other numbers on the device
            optimizer.step()
        return optimizer

    twice(life)


def test_a_graph_without_a_scaler_takes_its_steps_after_one_that_a_scaler_left_out(fake: FakeDevice) -> None:
    def life(captured: bool) -> sr.Optimizer:
        optimizer: Any = mixed(corrected_adam, capturable=True)
        fill(optimizer, 0)
        optimizer.step()
        step = optimizer.step
        if captured:
            with fake.capture() as graph:
                optimizer.step()
            step = lambda: fake.replay(graph)  # noqa: E731
        optimizer.found_inf = torch.ones(())
        optimizer.step()
        optimizer.found_inf = None
        step()
        assert {float(optimizer.state[p]["step"]) for p in parameters_of(optimizer)} == {2.0}
        return optimizer

    twice(life)


def test_a_host_that_runs_ahead_writes_over_nothing_that_is_still_to_be_read(fake: FakeDevice) -> None:
    def life(behind: bool) -> sr.Optimizer:
        fake.eager = not behind
        torch.manual_seed(3)
        optimizer, kept = sr.optim.AdamW(make((5,), (3, 2)), clip=0.5, backend=GPU), []
        for number in range(7):
            for parameter in parameters_of(optimizer):
                parameter.grad = None  # so that the next lies elsewhere
            fill(optimizer, number)
            kept.append([parameter.grad for parameter in parameters_of(optimizer)])
            optimizer.param_groups[0]["lr"] = 0.1 / (1 + number)
            optimizer.step()
            if number == 3:
                fake.work(until=len(fake.waiting) - 2)
        fake.work()
        fake.eager = True
        return optimizer

    twice(life)


def test_captures_that_cannot_be_are_refused_with_advice_and_nothing_is_written(fake: FakeDevice) -> None:
    cases = [
        ({"capturable": True}, 0, "take a few steps before"),
        ({"capturable": False}, 1, "pass capturable=True"),
        ({"capturable": True, "nonfinite": "raise"}, 1, 'nonfinite="skip"'),
    ]
    for options, steps, fix in cases:
        optimizer = mixed(**options)
        fill(optimizer, 0)
        for _ in range(steps):
            optimizer.step()
        before = bits(optimizer)
        with fake.capture(), pytest.raises(sr.errors.BackendError) as caught:
            optimizer.step()
        assert fix in caught.value.fix
        assert bits(optimizer) == before
        optimizer.step()
        assert bits(optimizer) != before


def test_another_stream_keeps_the_tables(fake: FakeDevice) -> None:
    optimizer = mixed()
    fill(optimizer, 0)
    for stream in (1, 1, 2, 1, 2, 3):
        fake.stream = stream
        optimizer.step()
    batches = [bucket.batch for bucket in optimizer._binding.buckets]
    tables = [id(table) for batch in batches for table in (*batch._tables, batch._room)]
    assert sorted(fake.kept) == sorted((stream, table) for stream in (2, 3) for table in tables)
