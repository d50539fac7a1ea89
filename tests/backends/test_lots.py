"""Tensors that need not wait for each other take their steps in lots, with the bits that they have all together."""

from __future__ import annotations

import pytest
import torch

import steprule as sr
from steprule import rule, slot
from steprule.backends import lots, numba_cpu
from steprule.backends.lots import Lots
from steprule.plan.program import lower
from steprule.plan.schedule import Plan, schedule
from steprule.plan.storage import layout

SHAPES = [(3, 40), (70,), (1, 1), (33,), (40, 9), (5, 2, 8), (0,)]
EACH = 3 * 4  # bytes of an element: a parameter, its gradient, a slot as large


@rule
def trusted(theta, g, m, r=slot(rank="row"), k=slot(rank="tensor", init=1.0), *, lr=0.1, t):
    """Three passes; slots of every kind; rows and whole tensors are reduced."""
    r = 0.9 * r + 0.1 * sr.mean(g**2, axis=1)
    u = g / sr.sqrt(r + 1e-8)
    u = u * sr.norm(theta) / (sr.norm(u) + k)
    return theta - lr * u, 0.9 * m + u, r, k + 1 / t


def plan(*, clip: bool = False, guarded: bool = False) -> Plan:
    return schedule(sr.chain(sr.clip_global_norm(max_norm=1.0), trusted).graph if clip else trusted.graph,
                    guarded=guarded)  # fmt: skip


@pytest.mark.null
def test_a_lot_holds_neighbours_that_fit_into_the_cache_or_one_that_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    program = lower(plan(), layout(plan().graph, "float32"))
    monkeypatch.setattr(lots, "CACHED", 10 * EACH)
    torch.set_num_threads(1)
    found = lots.lots(program, [4, 6, 1, 30, 0, 10, 3, 3])
    assert [(own.start, own.stop) for own in found] == [(0, 2), (2, 3), (3, 4), (4, 6), (6, 8)]
    assert lots.lots(program, []) == [slice(0, 0)]
    torch.set_num_threads(2)
    assert lots.lots(program, [30, 30]) == [slice(0, 2)], "threads would wait for each other at each end of a pass"


@pytest.mark.null
def test_there_are_no_lots_where_tensors_wait_for_all_or_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lots, "CACHED", 0)
    torch.set_num_threads(1)
    once, called = schedule(sr.board.adam.graph), schedule(sr.zoo.matrices.muon.graph)
    for own in (plan(clip=True), plan(guarded=True), once, called):
        assert lots.lots(lower(own, layout(own.graph, "float32")), [4, 4]) == [slice(0, 2)]


def stepped(*, apart: bool, threads: int, monkeypatch: pytest.MonkeyPatch) -> tuple[list[float], sr.Optimizer]:
    """Take steps in which gradients move, are absent and come back, of two groups; return every number there is."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    monkeypatch.setattr(lots, "CACHED", 40 * EACH if apart else 1 << 40)
    own = [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    groups = [{"params": own[:3], "lr": 0.3}, {"params": own[3:]}]
    optimizer = sr.Optimizer(groups, trusted)
    numbers = list[float]()
    for number in range(5):
        for place, parameter in enumerate(own):
            parameter.grad = None if number and (number + place) % 3 == 0 else torch.randn(parameter.shape)
        optimizer.step()
        torch.set_num_threads(threads)  # more of them than when tensors were bound
        numbers += optimizer._binding.buckets[0].batch.reduced().flatten().tolist()
    for parameter in own:
        numbers += parameter.detach().flatten().tolist()
        numbers += [float(x) for value in optimizer.state[parameter].values() for x in value.flatten()]
    return numbers, optimizer


@pytest.mark.cpu
@pytest.mark.usefixtures("small_chunks")
def test_lots_change_no_bit_whoever_is_absent_and_however_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba_cpu, "PARALLEL_FROM", {True: 32, False: 32})
    together, optimizer = stepped(apart=False, threads=1, monkeypatch=monkeypatch)
    assert not isinstance(optimizer._binding.buckets[0].batch, Lots)
    for threads in (1, 2):
        apart, optimizer = stepped(apart=True, threads=threads, monkeypatch=monkeypatch)
        batch = optimizer._binding.buckets[0].batch
        assert isinstance(batch, Lots)
        assert len(batch._lots) == 6
        assert batch.shared() == (threads > 1)
        assert [lot._elements for lot in batch._lots] == [120, 70, 33, 360, 0, 0]  # of those with gradients
        assert apart == together
