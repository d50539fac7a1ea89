"""What is asked of torch and Triton for a GPU, where there is none: by stand-ins that note how they are asked."""

from __future__ import annotations

import os
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from steprule.backends import BACKENDS, triton_device, triton_gpu
from steprule.backends.triton_device import Cuda, MainMemory, Now, Upload

pytestmark = pytest.mark.interp
THERE = torch.device("cuda", 1)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Note what torch is asked; the current stream is a word with its device, and GPU 0 is the current one."""
    pytest.importorskip("triton")
    noted: list[tuple[Any, ...]] = []
    empty = torch.empty

    def an_empty(shape: Any, **told: Any) -> torch.Tensor:
        noted.append(("empty", shape, told))
        return empty(shape, dtype=told["dtype"])

    @contextmanager
    def there(where: torch.device) -> Any:
        noted.append(("there", where))
        yield
        noted.append(("back",))

    low = SimpleNamespace(_cuda_getDevice=lambda: 0, _cuda_getCurrentRawStream=lambda index: 70 + index,
                          _cuda_isCurrentStreamCapturing=lambda: ("there", THERE) in noted)  # fmt: skip
    monkeypatch.setattr(triton_device, "_torch", low)
    monkeypatch.setattr(torch, "empty", an_empty)
    monkeypatch.setattr(torch.cuda, "device", there)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda where: f"stream of {where}")
    monkeypatch.setattr(torch.cuda, "Event", lambda **told: SimpleNamespace(told=told))
    return noted


def test_tables_are_made_on_the_gpu_and_pieces_in_pinned_memory(asked: list[Any]) -> None:
    own = Cuda(THERE)
    own.empty(2, 3)
    own.empty(4, dtype=torch.int64)
    own.pinned(5)
    assert asked == [
        ("empty", (2, 3), {"dtype": torch.float64, "device": THERE}),
        ("empty", (4,), {"dtype": torch.int64, "device": THERE}),
        ("empty", 5, {"dtype": torch.int64, "device": "cpu", "pin_memory": True}),
    ]
    table = own.table(np.arange(6).reshape(2, 3))
    assert table.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_nothing_waits_and_the_stream_is_that_of_the_tensors_device(asked: list[Any]) -> None:
    own = Cuda(THERE)
    noted: list[tuple[Any, ...]] = []
    stand_in: Any = SimpleNamespace(
        copy_=lambda source, **told: noted.append((source, told)),
        record_stream=lambda stream: noted.append(("kept", stream)),
        record=lambda stream: noted.append(("recorded", stream)),
    )
    own.copy(stand_in, torch.zeros(()))
    own.keep([stand_in, stand_in])
    own.record(stand_in)
    assert noted == [
        (torch.zeros(()), {"non_blocking": True}),
        *[("kept", "stream of cuda:1")] * 2,
        ("recorded", "stream of cuda:1"),
    ]
    assert own.event().told == {}, "an event with a time costs more"
    assert own.now() == Now(71, capturing=True, away=True), "asked while it is the current device"
    assert asked == [("there", THERE), ("back",)]
    assert Cuda(torch.device("cuda", 0)).now() == Now(70, capturing=True)


@pytest.mark.parametrize("slow", [False, True])
def test_a_kernel_is_compiled_on_its_device_before_anything_is_launched(
    asked: list[Any], slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it is launched there, past Triton's dispatch or, with a reason, by it."""
    monkeypatch.setattr(triton_device, "slow_launch", lambda kernel: "slow" if slow else "")
    noted: list[tuple[Any, ...]] = []

    class Function:
        def warmup(self, *arguments: Any, **told: Any) -> Any:
            noted.append(("compiled", arguments, told, list(asked)))
            return SimpleNamespace(run=lambda *told: noted.append(told), function=5, packed_metadata=6)

        def __getitem__(self, grid: Any) -> Any:
            return lambda *arguments, **told: noted.append(("launched", grid, arguments, told))

    own, table = Cuda(THERE), torch.zeros(3)
    launch = own.prepare(Function(), 9, (table, 4), {"num_warps": 2})
    assert noted == [("compiled", (table, 4), {"grid": (9,), "num_warps": 2}, [("there", THERE)])]
    assert own.why_slow == ("slow" if slow else "")
    noted.clear()
    launch(Now(71, capturing=False))
    if slow:
        assert noted == [("launched", (9,), (table, 4), {"num_warps": 2})]
        assert asked[-2:] == [("there", THERE), ("back",)]
        assert len(asked) == 4
    else:
        assert noted == [(9, 1, 1, 71, 5, 6, None, None, None, table.data_ptr(), 4)]


def test_main_memory_has_read_a_piece_when_it_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """So two pieces are enough for ever."""
    own, made = MainMemory(torch.device("cpu")), list[int]()
    pinned = own.pinned
    monkeypatch.setattr(own, "pinned", lambda words: (made.append(words), pinned(words))[1])
    upload = Upload(own, 1, capturable=False)
    for number in range(6):
        upload.send(np.array([number]), capturing=False)
        assert upload.table.tolist() == [number]
    assert made == [1, 1]


def test_kernels_are_interpreted_where_the_environment_says_so() -> None:
    """Else the tests of kernels would be skipped, and nobody would know."""
    pytest.importorskip("triton")
    assert triton_gpu.missing() == ""
    assert triton_gpu.interpreted() == (os.environ.get("TRITON_INTERPRET") == "1")


def test_which_parameters_have_gpu_kernels_is_said_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    own = BACKENDS["triton_gpu"]
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 0)
    monkeypatch.setattr(torch.version, "hip", None)
    for interpreted in (True, False):
        monkeypatch.setattr(triton_gpu, "interpreted", lambda interpreted=interpreted: interpreted)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
        assert bool(own.obstacle(cpu, torch.float32)) != interpreted
        assert ("TRITON_INTERPRET=1" in own.obstacle(gpu, torch.float32)) == interpreted
        assert "on meta" in own.obstacle(torch.device("meta"), torch.float32)
        assert "torch.int8" in own.obstacle(gpu, torch.int8)
    for found, single, half in (
        ((7, 0), True, False),
        ((6, 1), False, False),
        ((7, 5), True, False),
        ((8, 0), True, True),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=found: found)
        fits = [not own.obstacle(gpu, dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)]
        assert fits == [single, single, half]
        if not single:
            assert str(found) in own.obstacle(gpu, torch.float32)
    monkeypatch.setattr(torch.version, "hip", "6.0")
    assert "AMD" in own.obstacle(gpu, torch.float32)
    monkeypatch.setattr(triton_gpu, "missing", lambda: "no Triton")
    assert own.obstacle(gpu, torch.float32) == own.obstacle(cpu, torch.float32) == "no Triton"
    assert "pip install" in own.remedy()
    assert (own.home(cpu), own.home(gpu)) == (False, True)
