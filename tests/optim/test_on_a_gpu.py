"""GPU kernels on a GPU: numbers, graphs, streams, and that no step waits. Skipped, all of it, where there is none."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from truth import WITH_CLIPPING, corrected_adam, make

import steprule as sr
from steprule import board

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
SHAPES = [(5,), (), (0,), (70_001,), (4, 3)]
CLOSE = {torch.float32: 1e-5, torch.float64: 1e-10, torch.bfloat16: 2e-2, torch.float16: 2e-3}


class Twins:
    """The same parameters in main memory, in float64, and on the GPU."""

    def __init__(self, dtype: torch.dtype = torch.float32, shapes: Any = SHAPES) -> None:
        self.there = [torch.nn.Parameter(parameter.detach().to("cuda")) for parameter in make(*shapes, dtype=dtype)]
        self.here = [torch.nn.Parameter(parameter.detach().cpu().double()) for parameter in self.there]

    def gradients(self) -> None:
        """Give both the same new gradients; on the GPU, in the memory of the last ones."""
        for mine, other in zip(self.here, self.there, strict=True):
            new = torch.randn(other.shape).to(other.dtype)
            mine.grad = new.double()
            if other.grad is None:
                other.grad = torch.empty_like(other)
            other.grad.copy_(new)

    def agree(self) -> None:
        for mine, other in zip(self.here, self.there, strict=True):
            close = CLOSE[other.dtype]
            torch.testing.assert_close(other.detach().cpu().double(), mine.detach(), rtol=close, atol=close)


@contextmanager
def without_waiting() -> Generator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("program", [*WITH_CLIPPING, corrected_adam], ids=lambda program: repr(program)[:40])
def test_every_rule_and_dtype_follows_main_memory(program: Any, dtype: torch.dtype) -> None:
    twins = Twins(dtype)
    optimizers = [sr.Optimizer(parameters, program) for parameters in (twins.here, twins.there)]
    for _ in range(2):
        twins.gradients()
        for optimizer in optimizers:
            optimizer.step()
        twins.agree()
    assert sr.explain(optimizers[1]).backend == "triton_gpu"


@pytest.mark.parametrize("nonfinite", ["propagate", "skip"])
def test_no_step_waits_for_the_gpu(nonfinite: str) -> None:
    twins = Twins()
    optimizer = sr.optim.AdamW(twins.there, clip=1.0, nonfinite=nonfinite)
    twins.gradients()
    optimizer.step()
    torch.cuda.synchronize()
    with without_waiting():
        for number in range(5):
            optimizer.param_groups[0]["lr"] = 1e-3 * number
            for parameter in twins.there:
                parameter.grad = torch.ones_like(parameter)
            optimizer.step()


def test_a_scaled_step_does_not_wait_and_is_left_out_where_it_overflowed() -> None:
    twins = Twins()
    optimizer: Any = sr.optim.AdamW(twins.there, clip=1.0, fused=True)
    optimizer.grad_scale, optimizer.found_inf = (torch.full((), x, device="cuda") for x in (8.0, 0.0))
    twins.gradients()
    optimizer.step()
    torch.cuda.synchronize()
    with without_waiting():
        optimizer.found_inf.fill_(1.0)
        optimizer.step()
        optimizer.found_inf.fill_(0.0)
        optimizer.step()
    assert {float(optimizer.state[p]["step"]) for p in twins.there} == {2.0}


def test_a_graph_replays_scheduled_rates_as_eager_steps_do_bit_for_bit() -> None:
    results = []
    for captured in (False, True):
        torch.manual_seed(4)
        twins = Twins()
        rate = torch.tensor(0.1, device="cuda")
        optimizer = sr.optim.AdamW(twins.there, lr=rate, clip=1.0, capturable=True)
        twins.gradients()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                optimizer.step()
        torch.cuda.current_stream().wait_stream(stream)
        step: Any = optimizer.step
        if captured:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                optimizer.step()
            step = graph.replay
        for new in (0.1, 0.02, 0.5):
            rate.fill_(new)
            twins.gradients()
            step()
        results.append([parameter.detach().cpu() for parameter in twins.there])
        assert {float(optimizer.state[p]["step"]) for p in twins.there} == {6.0}
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_a_capture_of_the_first_step_or_without_capturable_is_refused() -> None:
    for capturable, warm in ((True, False), (False, True)):
        twins = Twins()
        optimizer = sr.Optimizer(twins.there, board.momentum, capturable=capturable)
        twins.gradients()
        if warm:
            optimizer.step()
            torch.cuda.synchronize()
        with pytest.raises(sr.errors.BackendError), torch.cuda.graph(torch.cuda.CUDAGraph()):
            optimizer.step()


def test_optimisers_on_their_own_streams_do_not_disturb_each_other() -> None:
    sets = [Twins() for _ in range(3)]
    pairs = [[sr.Optimizer(p, corrected_adam) for p in (twins.here, twins.there)] for twins in sets]
    streams = [torch.cuda.Stream() for _ in sets]
    for _ in range(4):
        for twins, (here, there), stream in zip(sets, pairs, streams, strict=True):
            twins.gradients()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                there.step()
            here.step()
        torch.cuda.synchronize()
    for twins in sets:
        twins.agree()
