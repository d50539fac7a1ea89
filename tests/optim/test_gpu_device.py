"""Rates on a GPU, what graphs point at, and steps of several buckets that are left out or interrupted."""

from __future__ import annotations

import gc
import signal
import weakref
from typing import Any

import pytest
import torch
from test_guards import give, of_all_ranks
from truth import bits, make

import steprule as sr
from fake_device import FakeDevice
from steprule import board
from steprule.backends import triton_device
from steprule.backends.numba_cpu import NumbaCpu
from steprule.backends.triton_gpu import TritonGpu, interpreted

pytestmark = [pytest.mark.interp, pytest.mark.skipif(not interpreted(), reason="a GPU is here: `-m gpu` runs on it")]
GPU = "triton_gpu"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    own = FakeDevice()
    monkeypatch.setitem(triton_device.DEVICES, "cpu", lambda where: own)
    return own


@sr.rule
def ending_late(theta, g, m, k=sr.slot(rank="tensor"), *, lr=0.1, t):
    """A sum of all tensors ends in the pass that writes, and a slot of each waits for it."""
    m = 0.9 * m + g / (1 + sr.global_norm(g))
    return theta - lr * m / t, m, k + sr.global_sum(m) + sr.mean(m)


def optimiser(program: Any = of_all_ranks, **options: Any) -> Any:
    """Make two parameters of two dtypes, so two buckets, under a rule with slots of every rank."""
    torch.manual_seed(2)
    parameters = [*make((5,)), *make((3,), dtype=torch.float64)]
    return sr.Optimizer(parameters, program, backend=GPU, **options)


def stepped(optimizer: Any, turn: int, found: float | None = None) -> None:
    """Take a step with the gradients of a turn, which lie where the last ones did."""
    gradients = [parameter.grad for parameter in optimizer.param_groups[0]["params"]]
    give(optimizer, turn)
    for parameter, gradient in zip(optimizer.param_groups[0]["params"], gradients, strict=True):
        if gradient is not None:
            parameter.grad = gradient.copy_(parameter.grad)
    optimizer.found_inf = None if found is None else torch.tensor(found)
    optimizer.step()


def counts(optimizer: Any) -> set[float]:
    return {float(state["step"]) for state in optimizer.state.values()}


@pytest.mark.parametrize("rate", [0.0, 0.25])
def test_a_rate_on_the_device_that_becomes_a_plain_number_is_used_no_more(rate: float) -> None:
    """Zero too, which the table of the host held in its place all the time."""
    parameters = make((2,), (3,), (2,))
    groups = [{"params": parameters[:2], "lr": torch.tensor(0.5)}, {"params": parameters[2:], "lr": 0.125}]
    optimizer = sr.Optimizer(groups, board.sgd, capturable=True, backend=GPU)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    for used in (0.5, rate, 0.5):
        optimizer.param_groups[0]["lr"] = torch.tensor(0.5) if used == 0.5 else used
        before = [parameter.detach().clone() for parameter in parameters]
        optimizer.step()
        for old, parameter, moved in zip(before, parameters, (used, used, 0.125), strict=True):
            torch.testing.assert_close(old - parameter, torch.full_like(old, moved))


def test_what_a_graph_points_at_lives_as_long_as_the_optimiser(fake: FakeDevice) -> None:
    for captured in (False, True):
        optimizer = optimiser(capturable=True)
        stepped(optimizer, 0)
        if captured:
            with fake.capture() as graph:
                optimizer.step()
            graph.clear()
        batches = [weakref.ref(bucket.batch) for bucket in optimizer._binding.buckets]
        first = optimizer.param_groups[0]["params"][0]
        optimizer.state[first]["m"] = optimizer.state[first]["m"].clone()
        stepped(optimizer, 1)  # binds anew
        gc.collect()
        assert [batch() is not None for batch in batches] == [captured] * 2
        del optimizer, first
        gc.collect()
        assert not any(batch() for batch in batches)


def test_found_inf_leaves_out_all_buckets_and_only_the_step_that_it_is_said_of(fake: FakeDevice) -> None:
    optimizer, never = optimiser(), optimiser()
    for turn, found in enumerate([None, 1.0, None, 1.0, 0.0]):
        before = bits(optimizer)
        stepped(optimizer, turn, found)
        if found == 1.0:
            assert bits(optimizer) == before
        else:
            stepped(never, turn)
            assert bits(optimizer) == bits(never)
    assert counts(optimizer) == {3.0}


def test_torch_operations_share_totals_guards_and_found_inf_with_kernels(
    fake: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A parameter with gaps, which no kernel walks over, beside two that one updates: together or not at all."""
    monkeypatch.setattr(NumbaCpu, "home", lambda self, device: False)
    monkeypatch.setattr(TritonGpu, "home", lambda self, device: True)
    ends = []
    for backend in (None, "eager"):
        torch.manual_seed(4)
        parameters = [*make((5,), (3,)), torch.nn.Parameter(torch.randn(4, 2)[:, 0])]
        optimizer = sr.Optimizer(parameters, of_all_ranks, nonfinite="skip", backend=backend)
        for turn, (bad, found) in enumerate([(None, None), (2, None), (0, None), (None, 1.0), (2, 0.0), (None, 0.0)]):
            before = bits(optimizer)
            give(optimizer, turn, None if bad is None else torch.nan, (bad or 0, 1))
            optimizer.found_inf = None if found is None else torch.tensor(found)
            optimizer.step()
            assert (bits(optimizer) == before) == (bad is not None or found == 1.0)
        assert counts(optimizer) == {2.0}
        ends.append([parameter.detach().clone() for parameter in parameters])
        used = {bucket.compiled.backend for bucket in optimizer._binding.buckets}
        assert used == ({GPU, "eager"} if backend is None else {"eager"})
    for mine, other in zip(*ends, strict=True):
        torch.testing.assert_close(mine, other)


def test_ctrl_c_at_any_launch_leaves_a_step_of_several_buckets_whole_or_undone(fake: FakeDevice) -> None:
    """With slots of one number a tensor, written after every pass of both."""
    never = optimiser(ending_late)
    ends = []
    for turn in range(3):
        stepped(never, turn)
        ends.append(bits(never))
    seen: list[bool] = []
    while True:
        optimizer = optimiser(ending_late)
        stepped(optimizer, 0)
        fake.launched.clear()
        interrupt_at(fake, len(seen))
        try:
            stepped(optimizer, 1)
            break
        except KeyboardInterrupt:
            pass
        seen.append(bits(optimizer) == ends[1])
        assert seen[-1] or bits(optimizer) == ends[0]
        assert counts(optimizer) == {1.0 + seen[-1]}
    assert len(seen) == len(fake.launched) >= 8
    assert seen == sorted(seen), "from the first launch that writes on, the step is taken"
    assert {*seen} == {False, True}
    fake.before_launch = lambda name: None
    stepped(optimizer, 2)
    assert bits(optimizer) == ends[2]


def interrupt_at(fake: FakeDevice, place: int) -> None:
    """Press Ctrl-C before that launch, once."""

    def before(name: str) -> None:
        if len(fake.launched) == place:
            fake.before_launch = lambda name: None
            signal.raise_signal(signal.SIGINT)

    fake.before_launch = before
