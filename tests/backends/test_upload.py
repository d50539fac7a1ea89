"""What is sent to a GPU lies in pinned memory until it has been read: a piece that may still be read is not written."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fake_device import FakeDevice
from steprule.backends import base
from steprule.backends.triton_device import SPARE, Upload
from steprule.errors import BackendError

pytestmark = pytest.mark.null


def words(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


def test_the_device_reads_what_was_sent_however_far_it_is_behind() -> None:
    """The host overtakes it by several steps, and writes over nothing that is still to be read."""
    fake = FakeDevice(eager=False)
    own, seen = Upload(fake, 2, capturable=False), []
    for number in range(6):
        assert own.send(words(number, -number), capturing=False)
        fake._do("reader", lambda: seen.append(own.table.tolist()))
        if number % 3 == 2:
            fake.work(until=4)
    fake.work()
    assert seen == [[number, -number] for number in range(6)]


def test_pieces_are_used_again_when_they_have_been_read() -> None:
    fake = FakeDevice()
    own = Upload(fake, 2, capturable=False)
    for number in range(20):
        own.send(words(number, 1), capturing=False)
    assert fake.counted["pinned"] == fake.counted["event"] == 2


def test_what_is_as_it_was_is_not_sent() -> None:
    fake = FakeDevice()
    own = Upload(fake, 2, capturable=False)
    assert own.send(words(0, 0), capturing=False), "the first time, whatever is there"
    assert own.send(words(1, 2), capturing=False)
    assert not own.send(words(1, 2), capturing=False)
    assert own.send(words(2, 2), capturing=False)
    assert own.table.tolist() == [2, 2]


def test_an_interrupted_sending_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """However far it came: the table may hold the new words, and the old ones are sent again."""

    def interrupted(*told: object) -> None:
        raise KeyboardInterrupt

    for name in ("copy", "record"):
        fake = FakeDevice()
        own = Upload(fake, 1, capturable=False)
        own.send(words(1), capturing=False)
        with monkeypatch.context() as patch:
            patch.setattr(fake, name, interrupted)
            with pytest.raises(KeyboardInterrupt):
                own.send(words(2), capturing=False)
        assert own.send(words(1), capturing=False)
        assert own.table.tolist() == [1]


def test_a_piece_without_its_event_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event that it had would say that the device has read it."""
    fake = FakeDevice(eager=False)
    own, seen = Upload(fake, 1, capturable=False), []
    for number in range(8):
        with monkeypatch.context() as patch:
            if number == 2:
                patch.setattr(fake, "record", lambda event: (_ for _ in ()).throw(KeyboardInterrupt))
            try:
                own.send(words(number), capturing=False)
            except KeyboardInterrupt:
                assert number == 2
        fake._do("reader", lambda: seen.append(int(own.table)))
        if number < 2:
            fake.work()
    fake.work()
    assert seen == list(range(8))


def test_a_graph_sends_what_it_sent_when_it_was_captured_and_makes_nothing() -> None:
    fake = FakeDevice()
    own = Upload(fake, 1, capturable=True)
    own.send(words(1), capturing=False)
    with fake.capture() as graph:
        own.send(words(1), capturing=True)
        own.send(words(2), capturing=True)
        own.send(words(1), capturing=True)
    for number in range(5):
        own.send(words(9 + number), capturing=False)
    seen = []
    for name, action in graph:
        fake.replay([(name, action)])
        seen.append(int(own.table))
    assert seen == [1, 2, 1]
    assert own.send(words(13), capturing=False), "it was sent last, and a graph has written since"
    assert own.table.tolist() == [13]


def test_more_contents_than_there_are_pieces_for_a_graph_are_refused_with_advice() -> None:
    fake = FakeDevice()
    own = Upload(fake, 1, capturable=True)
    with fake.capture():
        for number in range(SPARE):
            own.send(words(number), capturing=True)
        with pytest.raises(BackendError, match="more than 8 steps") as caught:
            own.send(words(-1), capturing=True)
    assert "outside of a capture" in caught.value.fix
    own.send(words(1), capturing=False)
    with fake.capture():
        own.send(words(-1), capturing=True)


def test_sums_of_what_is_on_a_device_are_made_there_and_nobody_waits() -> None:
    there = torch.zeros((), device="meta", dtype=torch.float64)  # to read it is an error
    for a, b in ((there, there), (there, 1.0)):
        assert base.join("add", a, b).device.type == "meta"
    assert base.join("add", 1.0, np.float64(2.0)) == 3.0
