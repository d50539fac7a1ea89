"""What the host does for a step on a GPU, as numbers that no machine changes; the device is one that does nothing."""

from __future__ import annotations

import importlib.util
import json
import sys
import tracemalloc
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import steprule as sr
from counted import calls
from fake_device import SilentGpu
from steprule.backends import triton_device
from steprule.backends.triton_gpu import interpreted

pytestmark = [
    pytest.mark.interp,
    pytest.mark.skipif(not interpreted(), reason="a GPU is here"),
]
MOST_CALLS = 60
"""Calls of Python and C that a step makes, of clipping and AdamW, with three launches in them."""


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SilentGpu:
    own = SilentGpu()
    monkeypatch.setitem(triton_device.DEVICES, "cpu", lambda where: own)
    return own


def model(count: int, **options: Any) -> tuple[list[torch.nn.Parameter], sr.Optimizer, Callable[[], None]]:
    parameters = [torch.nn.Parameter(torch.zeros(4, 3)) for _ in range(count)]
    optimizer = sr.optim.AdamW(parameters, clip=1.0, backend="triton_gpu", **options)

    def fill() -> None:
        for parameter in parameters:
            parameter.grad = torch.ones(4, 3)

    fill()
    for _ in range(2):
        optimizer.step()
    return parameters, optimizer, fill


def test_a_step_makes_few_calls_however_many_tensors(gpu: SilentGpu) -> None:
    made = {}
    for count in (6, 60, 1000):
        _, optimizer, fill = model(count)
        if optimizer._binding.why_slow:
            pytest.skip(optimizer._binding.why_slow)
        made[count] = calls(optimizer.step)
        fill()
        before = gpu.counted["copied"], gpu.counted["launched"]
        optimizer.param_groups[0]["lr"] *= 0.5
        optimizer.step()
        assert gpu.counted["copied"] == before[0] + 1, "addresses and hyperparameters are one piece"
        assert gpu.counted["launched"] == before[1] + 3
    assert made[6] <= MOST_CALLS, made
    assert max(made.values()) <= made[6] + 2, made  # `fetch`


def test_nothing_is_sent_made_or_kept_where_nothing_changes(gpu: SilentGpu) -> None:
    _, optimizer, fill = model(60)
    before = gpu.counted["made"], gpu.counted["copied"]
    for _ in range(3):
        optimizer.step()
    assert (gpu.counted["made"], gpu.counted["copied"]) == before
    for _ in range(5):
        fill()
        optimizer.param_groups[0]["lr"] *= 0.5
        optimizer.step()
    assert gpu.counted["made"] <= before[0] + 2, "a piece of pinned memory more, and its event"
    tracemalloc.start()
    try:
        optimizer.step()
        first = tracemalloc.get_traced_memory()[0]
        for _ in range(20):
            optimizer.step()
        grown, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown - first < 2_000
    assert peak < 20_000


def test_gradients_that_are_missing_move_or_are_transposed_bind_nothing_anew(gpu: SilentGpu, bound: list[int]) -> None:
    parameters, optimizer, fill = model(148)
    kept = []
    for number in range(12):
        fill()
        kept.append([parameter.grad for parameter in parameters])  # so that the next ones lie elsewhere
        for place, parameter in enumerate(parameters):
            if (place + number) % 7 < 3:
                parameter.grad = None
        optimizer.step()
    assert bound == [148]
    for number in range(6):
        fill()
        for parameter in parameters[:5]:
            parameter.grad = torch.ones(3, 4).T if number < 4 else None
        optimizer.step()
    assert bound == [148, 148], "once for those that must be copied from now on"
    assert optimizer._binding.why_slow == ""
    assert "a gradient is copied at every step" in str(sr.explain(optimizer))


def test_a_guard_and_a_scaler_cost_no_call_where_they_are_not_used(gpu: SilentGpu) -> None:
    _, plain, _ = model(6)
    _, guarded, _ = model(6, nonfinite="skip")
    assert calls(guarded.step) == calls(plain.step)


class NoWaiting(TorchDispatchMode):
    """Refuses to read a number of a tensor, which on a GPU would wait for all that was launched."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default
        return func(*args, **kwargs or {})


def test_no_step_reads_what_is_on_the_device(gpu: SilentGpu) -> None:
    """With a guard, a scaler and a rate in a tensor; gradients move, or are missing."""
    rate = torch.tensor(0.1)
    parameters, optimizer, fill = model(6, nonfinite="skip", lr=rate, capturable=True)
    optimizer.found_inf = torch.zeros(())
    optimizer.step()
    with NoWaiting():
        for number in range(4):
            fill()
            parameters[number].grad = None
            rate.mul_(0.5)
            optimizer.step()
        with pytest.raises(AssertionError):
            float(rate)


def test_triton_s_hooks_are_called_around_every_launch(gpu: SilentGpu) -> None:
    """Profilers rely on them."""
    _, optimizer, _ = model(6)
    seen: list[Any] = []

    class Kernel:
        function, packed_metadata = 11, (4, 1, 0)

        def run(self, *told: Any) -> None:
            seen.append(told)

        def launch_metadata(self, grid: Any, stream: int, *given: Any) -> Any:
            return grid, stream, len(given)

    tensor = torch.zeros(3)
    launch = triton_device.direct(Kernel(), 5, (tensor, 7, True), torch.device("cpu"))
    launch(gpu.now())
    assert seen.pop() == (5, 1, 1, 7, 11, (4, 1, 0), None, None, None, tensor.data_ptr(), 7, True)
    gpu.hooks.launch_exit_hook.add(print)
    now = gpu.now()
    launch(now)
    told = seen.pop()
    assert told[6:9] == (((5, 1, 1), 7, 3), *now.hooks)
    heard: list[Any] = []
    gpu.hooks.launch_enter_hook.add(heard.append)
    run = optimizer._binding.buckets[0].batch.step
    with pytest.raises(AttributeError, match="launch_metadata"):  # the silent kernel has none; a real one is asked
        run(optimizer._binding.buckets[0].hyper)


def test_a_launch_on_another_than_the_current_device_is_made_there(gpu: SilentGpu, monkeypatch: Any) -> None:
    """And streams and captures are asked there."""
    current: list[Any] = []

    class There:
        def __init__(self, where: torch.device) -> None:
            self.where = where

        def __enter__(self) -> None:
            current.append(self.where)

        def __exit__(self, *told: object) -> None:
            current.pop()

    monkeypatch.setattr(torch.cuda, "device", There)
    gpu._current = lambda: 1
    gpu._captures = lambda: bool(current)
    now = gpu.now()
    assert (now.away, now.capturing) == (True, True)
    seen: list[Any] = []
    kernel = SimpleNamespace(run=lambda *told: seen.append(list(current)), function=1, packed_metadata=())
    triton_device.direct(kernel, 1, (), gpu.where)(now)
    assert seen == [[gpu.where]]
    assert not current


def test_a_launcher_that_is_made_otherwise_is_not_called_directly() -> None:
    driver = pytest.importorskip("triton.backends.nvidia.driver")

    class Kernel:
        function, packed_metadata, launch_metadata = 1, (), print

        def __init__(self, run: Any) -> None:
            self.run = run

    known = Kernel(object.__new__(driver.CudaLauncher))
    assert triton_device.slow_launch(known) == ""
    for other in (None, Kernel(None), Kernel(lambda grid, stream, *args: None), Kernel(print)):
        assert "its dispatch takes longer" in triton_device.slow_launch(other)


def test_the_benchmark_of_the_host_runs_both_arms_and_says_what_it_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(__file__).parents[2] / "benchmarks" / "gpu_host.py"
    spec = importlib.util.spec_from_file_location("gpu_host", path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(triton_device, "DEVICES", dict(triton_device.DEVICES))
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    monkeypatch.setattr(bench, "COUNTS", (6,))
    monkeypatch.setattr(bench, "ROUNDS", 2)
    bench.main(tmp_path / "record.json")
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    case = record["tensors"]["6"]
    assert set(case["microseconds"]) == {bench.GPU, bench.CPU}
    assert (case["launches a step"], case["copies a step that moves"], case["made"]) == (3.0, 1.0, 0)
    assert any("kernel.run" in replaced for replaced in record["replaced"])
    assert "6 tensors" in capsys.readouterr().out


def test_what_cannot_be_launched_directly_goes_through_triton_s_dispatch_and_is_explained(
    gpu: SilentGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device", lambda where: nullcontext())
    launched: list[Any] = []

    class Function:
        """Of a Triton whose compiled kernels are of another kind."""

        def warmup(self, *given: Any, grid: Any, **options: Any) -> None:
            assert (given, grid, options) == ((1, 2), (5,), {"num_warps": 4})

        def __getitem__(self, grid: Any) -> Any:
            return lambda *given, **options: launched.append((grid, given, options))

    launch = triton_device.Cuda.prepare(gpu, Function(), 5, (1, 2), {"num_warps": 4})
    launch(gpu.now())
    assert launched == [((5,), (1, 2), {"num_warps": 4})]
    _, optimizer, _ = model(2)
    told = sr.explain(optimizer)
    assert "its dispatch takes longer" in told.means.reasons["launches"]
    assert "slower than it could be: launching (this version of Triton" in str(told)


def test_a_kernel_that_does_not_compile_fails_before_anything_is_written(
    gpu: SilentGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever it is: all are compiled when tensors are bound, of both batches."""
    parameters = [torch.nn.Parameter(torch.zeros(2, dtype=dtype)) for dtype in (torch.float32, torch.float64)]
    optimizer = sr.optim.AdamW(parameters, clip=1.0, backend="triton_gpu")
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    prepare, made = gpu.prepare, []

    def fails(function: Any, *given: Any) -> Any:
        made.append(function.__name__)
        if made == ["pass_0", "end_0", "pass_1"] * 2:
            raise RuntimeError("out of resources")
        return prepare(function, *given)

    monkeypatch.setattr(gpu, "prepare", fails)
    with pytest.raises(RuntimeError, match="out of resources"):
        optimizer.step()
    assert gpu.counted["launched"] == 0
    assert not optimizer.state
    optimizer.step()
    assert gpu.counted["launched"] == 6
