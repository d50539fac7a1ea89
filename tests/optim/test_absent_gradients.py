"""Gradients that are there on some steps only: who has none is left alone, and nothing is bound anew for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from truth import Truth, bits, corrected_adam, fill_gradients, make, raw, step_both

import steprule as sr
from steprule import board, chain
from steprule.backends import numba_cpu
from steprule.optim import binding, fast_check

pytestmark = pytest.mark.cpu

SHAPES = ((3, 4), (5,), (0,), (2, 2, 2), (), (7,), (1, 6))
WAYS = ["fast", "slow", "eager", pytest.param("triton_gpu", marks=pytest.mark.interp)]


@sr.rule
def everything(
    theta,
    g,
    m,
    k=sr.slot(rank="tensor"),
    c=sr.slot(rank="host", init=1.0),
    *,
    lr=0.1,
    t,
):
    """Slots of every rank, reductions of each kind, and the step count."""
    m = 0.9 * m + g / (1 + sr.global_norm(g)) + 0.1 * sr.max(g) * sr.global_sum(theta)
    return theta - lr * c * m / (1 + k + sr.norm(g)) / t, m, k + sr.mean(g * g) + 1, c * 1.01


PROGRAMS = {
    "everything": everything,
    "adam": corrected_adam,
    "clip": chain(sr.clip_global_norm(max_norm=0.5), board.adam),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "slow":
        monkeypatch.setattr(binding, "loop", lambda: None)
    elif request.param == "fast" and fast_check.loop() is None:
        pytest.skip("this Python or this torch is made differently")
    return request.param


def made(program: Any, way: str, dtype: torch.dtype = torch.float64, **own: Any) -> sr.Optimizer:
    torch.manual_seed(5)
    parameters = make(*SHAPES, dtype=dtype)
    groups = [{"params": parameters[:3]}, {"params": parameters[3:], "lr": 0.05}]
    return sr.Optimizer(groups, program, backend=way if way in {"eager", "triton_gpu"} else None, **own)


def parameters_of(optimizer: sr.Optimizer) -> list[torch.nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def fill(optimizer: sr.Optimizer, absent: Callable[[int], bool]) -> list[torch.nn.Parameter]:
    """Give gradients to all but some; return those that have none."""
    parameters = parameters_of(optimizer)
    fill_gradients(parameters)
    without = [parameter for place, parameter in enumerate(parameters) if absent(place)]
    for parameter in without:
        parameter.grad = None
    return without


@pytest.mark.parametrize("program", PROGRAMS)
def test_who_has_no_gradient_is_left_alone_and_is_in_no_reduction(way: str, program: str, bound: list[int]) -> None:
    """A different few each step, all, and none; every slot against the interpreter, absent ones bit for bit."""
    optimizer = made(PROGRAMS[program], way)
    truth = Truth(optimizer)
    draw = torch.Generator().manual_seed(1)
    for number in range(7 if way == "triton_gpu" else 14):  # the interpreter is slow
        chance = {0: 0.0, 3: 1.0, 9: 0.0}.get(number, 0.4)
        chosen = torch.rand(len(SHAPES), generator=draw) < chance
        without = fill(optimizer, lambda place, chosen=chosen: bool(chosen[place]))
        before = [(raw(p), {k: raw(v) for k, v in optimizer.state[p].items()}, p._version) for p in without]
        step_both(optimizer, truth)
        after = [(raw(p), {k: raw(v) for k, v in optimizer.state[p].items()}, p._version) for p in without]
        assert before == after
        if "step" in optimizer.state[parameters_of(optimizer)[0]]:
            assert [int(optimizer.state[p]["step"]) for p in parameters_of(optimizer)] == list(truth.steps.values())
    assert bound == [len(SHAPES)]


@pytest.mark.parametrize("program", PROGRAMS)
def test_marked_tables_give_the_bits_of_tables_without_the_absent(way: str, program: str) -> None:
    """Against an optimiser that binds anew at every step those alone that have gradients."""
    if way == "triton_gpu" and program != "adam":
        pytest.skip("the interpreter is slow")
    ends = []
    for anew in (False, True):
        optimizer = made(PROGRAMS[program], way, dtype=torch.float32)
        for number in range(8):
            torch.manual_seed(number)
            fill(optimizer, lambda place, number=number: number > 1 and (place * 3 + number) % 5 < 2)
            if anew:
                optimizer._binding = None
            optimizer.step()
        ends.append(bits(optimizer))
    assert ends[0] == ends[1]


def test_a_guarded_step_that_is_left_out_counts_for_nobody(way: str) -> None:
    optimizer = made(corrected_adam, way, nonfinite="skip")
    parameters = parameters_of(optimizer)
    fill(optimizer, lambda place: False)
    optimizer.step()
    fill(optimizer, lambda place: place == 1)
    optimizer.step()
    before = bits(optimizer)
    fill(optimizer, lambda place: place == 3)
    parameters[0].grad[0, 0] = torch.nan
    optimizer.step()
    assert bits(optimizer) == before
    fill(optimizer, lambda place: place == 0)
    optimizer.step()
    assert [int(optimizer.state[p]["step"]) for p in parameters] == [2, 2, 3, 3, 3, 3, 3]


def test_a_gradient_that_is_absent_is_not_what_a_guard_finds(way: str) -> None:
    optimizer = made(corrected_adam, way, nonfinite="raise")
    fill(optimizer, lambda place: False)
    optimizer.step()
    fill(optimizer, lambda place: place in {1, 2})
    optimizer.step()
    assert int(optimizer.state[parameters_of(optimizer)[0]]["step"]) == 2


@pytest.mark.parametrize("threads", [1, 2])
def test_another_fifth_absent_at_each_step_binds_nothing_anew(threads: int, bound: list[int]) -> None:
    """The work of a step is that of those present: one launch, chunks shared out among them alone."""
    torch.set_num_threads(threads)
    count = 100
    parameters = [torch.nn.Parameter(torch.randn(64, 64)) for _ in range(count)]
    twins = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
    ours, theirs = sr.optim.AdamW(parameters, lr=0.01), torch.optim.AdamW(twins, lr=0.01, foreach=True)
    gradients = [torch.randn(64, 64) for _ in range(count)]
    for number in range(8):
        for place, (parameter, twin) in enumerate(zip(parameters, twins, strict=True)):
            parameter.grad = twin.grad = None if (place * 7 + number) % 5 == 0 else gradients[place]
        ours.step()
        theirs.step()
    assert len(bound) <= 3, "one for those there are at first, one for those that come later"
    assert bound[-1] == count
    for parameter, twin in zip(parameters, twins, strict=True):
        torch.testing.assert_close(parameter, twin, rtol=1e-4, atol=1e-5)
        assert int(ours.state[parameter]["step"]) == int(theirs.state[twin]["step"])
    batch = ours._binding.buckets[0].batch
    assert batch._elements == 80 * 64 * 64
    parts = [batch._lengths[a:b].sum() for a, b in zip(batch._parts, batch._parts[1:], strict=False)]
    assert len(parts) == threads
    assert max(parts) - min(parts) <= 2 * numba_cpu.CHUNK


def test_tensors_that_are_stepped_together_share_a_row_of_hyperparameters() -> None:
    """Experts: two rows more for each that has a history of its own, however often it is absent."""
    parameters = make(*[(4,)] * 12)
    optimizer = corrected_adam.optimizer(parameters)
    for number in range(20):
        fill_gradients(parameters)
        for parameter in parameters[4 * (number % 3) : 4 * (number % 3) + 3]:
            parameter.grad = None if number else parameter.grad
        optimizer.step()
    assert len(optimizer._binding.buckets[0].hyper) == 4


def test_late_gradients_are_bound_once_each_and_stay(way: str, bound: list[int]) -> None:
    optimizer = made(corrected_adam, way)
    truth = Truth(optimizer)
    for number in range(10):
        fill(optimizer, lambda place, number=number: place > number // 2 or (number % 2 and place == 0))
        step_both(optimizer, truth)
    assert bound == [1, 2, 3, 4, 5]
    assert all(not optimizer.state.get(p) for p in parameters_of(optimizer)[5:])


def test_an_absent_parameter_that_has_become_unusable_does_not_matter(way: str) -> None:
    """Its memory is freed or shared, its state gone or of another form: as long as it has no gradient."""
    for spoil in (
        lambda p, own: p.data.untyped_storage().resize_(0),
        lambda p, own: own["m"].untyped_storage().resize_(0),
        lambda p, own: own.update(m=torch.zeros(9)),
        lambda p, own: own.clear(),
        lambda p, own: setattr(p, "data", torch.zeros(4)),
    ):
        optimizer = made(corrected_adam, way)
        parameters = parameters_of(optimizer)
        fill(optimizer, lambda place: False)
        optimizer.step()
        kept = parameters[1].data, dict(optimizer.state[parameters[1]])
        fill(optimizer, lambda place: place == 1)
        spoil(parameters[1], optimizer.state[parameters[1]])
        optimizer.step()
        optimizer.step()
        assert int(optimizer.state[parameters[0]]["step"]) == 3
        del kept


def test_two_views_of_one_memory_that_are_never_stepped_together_may_be_stepped(way: str) -> None:
    whole = torch.zeros(6, dtype=torch.float64)
    parameters = [torch.nn.Parameter(whole[:4]), torch.nn.Parameter(whole[2:])]
    optimizer = board.sgd.optimizer(parameters, lr=1.0, backend=way if way in {"eager", "triton_gpu"} else None)
    for number in range(6):
        parameters[number % 2].grad = torch.ones(4, dtype=torch.float64)
        parameters[1 - number % 2].grad = None
        optimizer.step()
    assert whole.tolist() == [-3, -3, -6, -6, -3, -3]


def test_a_count_of_an_absent_parameter_that_is_edited_is_followed(way: str) -> None:
    optimizer = made(corrected_adam, way)
    parameters = parameters_of(optimizer)
    for number in range(4):
        fill(optimizer, lambda place, number=number: number > 0 and place == 1)
        optimizer.step()
        if number == 2:
            optimizer.state[parameters[1]]["step"].fill_(40.0)
    fill(optimizer, lambda place: False)
    optimizer.step()
    assert [int(optimizer.state[p]["step"]) for p in parameters[:2]] == [5, 41]
