"""Optimisers with numbers of rows and columns on a GPU: launches, interrupts, graphs, draws, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from test_gpu_device import interrupt_at
from test_state_formats import of_few_bits
from truth import bits, make

import steprule as sr
from fake_device import FakeDevice
from steprule.backends import triton_device
from steprule.backends.triton_build import Build, building
from steprule.backends.triton_gpu import interpreted

pytestmark = [pytest.mark.interp, pytest.mark.skipif(not interpreted(), reason="a GPU is here: `-m gpu` runs on it")]
GPU = "triton_gpu"


@pytest.fixture(autouse=True)
def small() -> Iterator[None]:
    """Let tiles be 16 rows by 8."""
    with building(Build(chunk=16, block=16, rows=2)):
        yield


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    own = FakeDevice()
    monkeypatch.setitem(triton_device.DEVICES, "cpu", lambda where: own)
    return own


@sr.rule
def ending_in_rows(theta, g, r=sr.slot(rank="row"), k=sr.slot(rank="tensor"), *, lr=0.1, t):
    """What the last pass gives of rows is reduced for slots, of each tensor and of all, whose rows then change."""
    return theta - lr * g / (1 + r), r / t + sr.mean(g**2, axis=1), k + sr.global_sum(r) + sr.mean(r)


def optimiser(*shapes: tuple[int, ...], **options: Any) -> Any:
    """Make parameters of two dtypes, so two buckets."""
    torch.manual_seed(2)
    parameters = [*make(*shapes), *make((3, 2), dtype=torch.float64)]
    return sr.Optimizer(parameters, ending_in_rows, backend=GPU, **options)


def stepped(optimizer: Any, turn: int) -> None:
    """Take a step with the gradients of a turn, which lie where the last ones did."""
    torch.manual_seed(turn)
    for parameter in optimizer.param_groups[0]["params"]:
        new = torch.randn_like(parameter)
        parameter.grad = new if parameter.grad is None else parameter.grad.copy_(new)
    optimizer.step()


def test_ctrl_c_at_any_launch_leaves_a_step_whole_or_undone_whatever_has_changed_in_rows(fake: FakeDevice) -> None:
    """Totals of what rows were before are shared by two buckets, and rows change in the end."""
    never, ends = optimiser((2, 3)), list[Any]()
    for turn in range(3):
        stepped(never, turn)
        ends.append(bits(never))
    launched = [
        *("begin", "begin"),
        *("lines_0", "pass_0", "parts_0", "end_0", "total_0") * 2,
        *("write_lines", "finish") * 2,
    ]
    for place, taken in ((1, False), (2, True), (8, True), (13, True), (15, True)):
        optimizer = optimiser((2, 3))
        stepped(optimizer, 0)
        fake.launched.clear()
        interrupt_at(fake, place)
        with pytest.raises(KeyboardInterrupt):
            stepped(optimizer, 1)
        assert bits(optimizer) == ends[taken], launched[place]
        assert fake.launched[: place + 1] == launched[: place + taken]
    stepped(optimizer, 2)
    assert bits(optimizer) == ends[2]


def test_launches_are_as_many_for_any_number_of_tensors_and_a_graph_replays_them(fake: FakeDevice) -> None:
    ends = []
    for captured in (False, True):
        fake.launched.clear()
        optimizer = optimiser((5, 3), (), (2, 2, 2), (0, 3), (40,), capturable=True)
        stepped(optimizer, 0)
        assert len(fake.launched) == 16
        if captured:
            with fake.capture() as graph:
                optimizer.step()
            for parameter in optimizer.param_groups[0]["params"]:
                parameter.grad.mul_(2)
            fake.replay(graph)
        else:
            for parameter in optimizer.param_groups[0]["params"]:
                parameter.grad.mul_(2)
            optimizer.step()
        ends.append(bits(optimizer))
    assert ends[0] == ends[1]


@sr.rule
def shaken(theta, g, m, r=sr.slot(rank="row"), c=sr.slot(rank="column"), *, lr=0.125):
    """Float32 arithmetic is exact; what is drawn and its place matter."""
    r, c = sr.max(abs(g), axis=1), sr.max(m, axis=0)
    m = 0.5 * m + g * sr.rademacher() + sr.where(r > 0.5, c, r)
    return theta - lr * m + 0.25 * sr.rademacher(), m, r, c


@pytest.mark.parametrize("rounding", ["stochastic", "compensated8"])
def test_what_is_drawn_and_rounded_beside_rows_is_what_it_is_anywhere(rounding: str) -> None:
    """In tiles that are walked over the wide way, or not, of 16-bit parameters; a vector, and several dimensions."""
    ends = []
    for backend in (GPU, "eager"):
        torch.manual_seed(1)
        parameters = [torch.nn.Parameter(of_few_bits(*shape).bfloat16()) for shape in ((17, 16), (3, 2, 5), (4,))]
        told: Any = {"rounding": rounding, "state": {"m": "bfloat16"}, "seed": 3, "backend": backend}
        optimizer = shaken.optimizer(parameters, **told)
        for turn in range(2):
            torch.manual_seed(turn)
            for parameter in parameters:
                parameter.grad = of_few_bits(*parameter.shape).to(parameter.dtype)
            optimizer.step()
        ends.append(bits(optimizer))
        assert sr.explain(optimizer).backend == backend
    assert ends[0] == ends[1]


def test_what_lies_in_another_order_or_has_8_bits_beside_rows_has_no_kernel_and_is_told() -> None:
    cases: list[tuple[torch.Tensor, dict[str, Any], str]] = [
        (torch.ones(2, 3, 2, 2).contiguous(memory_format=torch.channels_last), {}, "memory has another order"),
        (torch.ones(64, 64), {"state": {"m": "8bit"}}, "in 8 bits beside rows and columns"),
    ]
    for values, options, told in cases:
        parameter = torch.nn.Parameter(values)
        parameter.grad = torch.ones_like(values)
        with pytest.raises(sr.errors.BackendError, match=told):
            shaken.optimizer([parameter], backend=GPU, **options).step()
        assert torch.equal(parameter, torch.ones_like(values))
