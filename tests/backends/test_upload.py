"""What is sent to a GPU lies in pinned memory until it has been read: a piece that may still be read is not written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from steprule.backends import base, triton_gpu

pytestmark = pytest.mark.null


class FakeEvent:
    """An event that has happened when the test says so."""

    def __init__(self) -> None:
        self.happened = False

    def query(self) -> bool:
        return self.happened


def upload(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(triton_gpu.Upload, "_pinned", lambda self: torch.empty(self.table.shape))
    return triton_gpu.Upload((2,), torch.float32, torch.device("cpu"))


def test_a_piece_is_used_again_when_the_device_has_read_it_and_the_oldest_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = upload(monkeypatch)
    first, second = own._piece(), own._piece()
    assert first[0] is not second[0], "one is written while the other is read"
    second[1].happened = True
    third = own._piece()
    assert third[0] is not first[0], "the device has not read the oldest: the host does not wait, and writes elsewhere"
    assert third[0] is not second[0]
    first[1].happened = True
    assert own._piece() is first
    assert own._piece() is second


def test_what_is_as_it_was_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    own = upload(monkeypatch)
    values = np.array([1.0, 2.0], dtype=np.float32)
    assert own.send(values)
    assert own.table.tolist() == [1.0, 2.0]
    assert not own.send(values.copy())
    assert own.send(values * 2)
    assert own.table.tolist() == [2.0, 4.0]


def test_sums_of_what_is_on_a_device_are_made_there_and_nobody_waits() -> None:
    there = torch.zeros((), device="meta", dtype=torch.float64)  # to read it is an error
    for a, b in ((there, there), (there, 1.0)):
        assert base._join("add", a, b).device.type == "meta"
    assert base._join("add", 1.0, np.float64(2.0)) == 3.0
