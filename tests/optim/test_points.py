"""Blocks in which parameters are elsewhere: nested, overlapping, interrupted, written in, and left without a trace."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from truth import bits, raw

import steprule as sr
from steprule import board
from steprule.errors import NonFiniteError, ParameterError, StepruleError
from steprule.optim import points

pytestmark = pytest.mark.null


def stepped(steps: int = 3, rule: Any = board.nesterov, **options: Any) -> tuple[Any, list[torch.nn.Parameter]]:
    """Return an optimiser after steps without a closure: what is stored is the look-ahead point."""
    parameters = [torch.nn.Parameter(torch.linspace(-1, 1, 4, dtype=torch.float64)) for _ in range(3)]
    optimizer = sr.Optimizer(parameters, rule, lr=0.1, **{"backend": "eager", **options})
    for _ in range(steps):
        gradients(parameters)
        optimizer.step()
    return optimizer, parameters


def gradients(parameters: list[torch.nn.Parameter], scale: float = 1.0) -> None:
    for index, parameter in enumerate(parameters):
        parameter.grad = scale * (parameter.detach() + index)


def iterates(optimizer: Any) -> list[bytes]:
    with optimizer.at_iterate():
        return [raw(parameter) for parameter in optimizer.param_groups[0]["params"]]


REFUSED: dict[str, Callable[[Any], Any]] = {
    "step()": lambda optimizer: optimizer.step(),
    "step(closure)": lambda optimizer: optimizer.step(lambda: gradients(optimizer.param_groups[0]["params"])),
    "load_state_dict()": lambda optimizer: optimizer.load_state_dict(optimizer.state_dict()),
    "add_param_group()": lambda optimizer: optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))]}),
}


@pytest.mark.parametrize("action", REFUSED)
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("rule", [board.nesterov, board.adam], ids=repr)
def test_nothing_is_changed_inside_a_block_at_whatever_depth(rule: Any, depth: int, action: str) -> None:
    """An inner block that has ended leaves the outer one open."""
    optimizer, _ = stepped(rule=rule)
    before = bits(optimizer)

    def refuse() -> None:
        inside = bits(optimizer)
        with pytest.raises(ParameterError, match=r"inside at_iterate\(\)") as caught:
            REFUSED[action](optimizer)
        assert action.partition("(")[0] in caught.value.what
        assert caught.value.where
        assert "leave the `with` block" in caught.value.fix
        assert bits(optimizer) == inside

    def nest(level: int) -> None:
        with optimizer.at_iterate():
            refuse()
            if level > 1:
                nest(level - 1)
                refuse()
                with pytest.raises(KeyError), optimizer.at_iterate():
                    raise KeyError
                refuse()

    nest(depth)
    assert bits(optimizer) == before
    assert len(optimizer.param_groups) == 1
    for act in REFUSED.values():
        act(optimizer)


def test_nested_blocks_hold_the_iterate_until_the_outermost_ends() -> None:
    optimizer, parameters = stepped()
    before, expected = bits(optimizer), iterates(optimizer)
    with optimizer.at_iterate():
        with optimizer.at_iterate():
            assert [raw(parameter) for parameter in parameters] == expected
        assert [raw(parameter) for parameter in parameters] == expected
    assert bits(optimizer) == before


def test_blocks_that_overlap_in_threads_end_with_the_last() -> None:
    optimizer, parameters = stepped()
    before, expected = bits(optimizer), iterates(optimizer)
    inside, may_end = threading.Event(), threading.Event()

    def other() -> None:
        with optimizer.at_iterate():
            inside.set()
            may_end.wait(30)

    thread = threading.Thread(target=other)
    with optimizer.at_iterate():
        thread.start()
        assert inside.wait(30)
    assert [raw(parameter) for parameter in parameters] == expected
    with pytest.raises(ParameterError, match="inside at_iterate"):
        optimizer.step()
    may_end.set()
    thread.join()
    assert bits(optimizer) == before


WRITES: dict[str, Callable[[torch.nn.Parameter], Any]] = {
    "by torch": lambda p: p.detach().fill_(9.0),
    "past torch": lambda p: p.data.numpy().__setitem__(2, 9.0),
    "one NaN": lambda p: p.data.view(-1)[1:2].fill_(math.nan),
    "other data": lambda p: setattr(p, "data", torch.full((4,), 9.0, dtype=torch.float64)),
    "another size": lambda p: setattr(p, "data", torch.full((7,), 9.0, dtype=torch.float64)),
    "another dtype": lambda p: setattr(p, "data", p.data.float()),
}


@pytest.mark.parametrize("how", WRITES)
def test_what_is_written_inside_is_kept_and_is_the_iterate(how: str) -> None:
    """The loaded or averaged parameter stays, `ahead` says what it is; the others are put back bit for bit."""
    optimizer, parameters = stepped()
    points = [raw(parameter) for parameter in parameters]
    with optimizer.at_iterate():
        WRITES[how](parameters[1])
        written = raw(parameters[1])
    assert raw(parameters[1]) == written
    assert [float(optimizer.state[p]["ahead"]) for p in parameters] == [1.0, 0.0, 1.0]
    assert [raw(parameters[0]), raw(parameters[2])] == [points[0], points[2]]
    assert iterates(optimizer)[1] == written


def test_a_model_loaded_inside_a_block_is_what_is_stepped_on() -> None:
    optimizer, parameters = stepped()
    best = [torch.full((4,), float(index), dtype=torch.float64) for index in range(3)]
    with optimizer.at_iterate(), torch.no_grad():
        for parameter, value in zip(parameters, best, strict=True):
            parameter.copy_(value)
    assert iterates(optimizer) == [raw(value) for value in best]
    gradients(parameters)
    m = [optimizer.state[p]["m"].clone() for p in parameters]
    optimizer.step()
    with optimizer.at_iterate():
        for index, (parameter, value) in enumerate(zip(parameters, best, strict=True)):
            expected = value - 0.1 * (0.1 * (value + index) + 0.9 * m[index])
            torch.testing.assert_close(parameter.detach(), expected, rtol=1e-13, atol=1e-14)


STATES: dict[str, Callable[[Any, torch.nn.Parameter], Any]] = {
    "a slot written": lambda optimizer, p: optimizer.state[p]["m"].zero_(),
    "a slot replaced": lambda optimizer, p: optimizer.state[p].__setitem__("m", torch.zeros(4, dtype=torch.float64)),
    "a slot gone": lambda optimizer, p: optimizer.state[p].pop("m"),
    "its state gone": lambda optimizer, p: optimizer.state.pop(p),
    "all state gone": lambda optimizer, _: optimizer.state.clear(),
}


@pytest.mark.parametrize("how", STATES)
def test_state_that_is_written_inside_keeps_the_iterate(how: str) -> None:
    """The stored point would mean another iterate with other slots."""
    optimizer, parameters = stepped()
    expected = iterates(optimizer)
    with optimizer.at_iterate():
        STATES[how](optimizer, parameters[1])
    assert raw(parameters[1]) == expected[1]
    assert float(optimizer.state.get(parameters[1], {}).get("ahead", 0.0)) == 0.0
    if not how.startswith("all"):
        assert iterates(optimizer) == expected
    gradients(parameters)
    optimizer.step()


def test_more_state_and_other_numbers_inside_do_not_matter() -> None:
    optimizer, parameters = stepped()
    before = [raw(parameter) for parameter in parameters]
    with optimizer.at_iterate():
        optimizer.state[parameters[0]]["ema"] = torch.ones(4)
        optimizer.param_groups[0]["lr"] = 0.7
        copied = copy.deepcopy(optimizer)
    assert [raw(parameter) for parameter in parameters] == before
    assert iterates(copied) == iterates(optimizer)
    copied.step()


@pytest.mark.parametrize("after", range(1, 7))
def test_an_interrupt_on_the_way_out_leaves_nothing_half_done(after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each write is interrupted in turn, twice; the points are back, and the interrupt is told."""
    optimizer, _ = stepped()
    before = bits(optimizer)
    writes = {"left": after, "again": 2}
    put_back, mark = points.Copy.put_back, points._mark

    def interrupted(do: Any) -> Any:
        def act(*args: Any, **keywords: Any) -> None:
            do(*args, **keywords)
            writes["left"] -= 1
            if writes["left"] <= 0 and writes["again"]:
                writes["again"] -= 1
                raise KeyboardInterrupt

        return act

    block = optimizer.at_iterate()
    block.__enter__()
    monkeypatch.setattr(points.Copy, "put_back", interrupted(put_back))
    monkeypatch.setattr(points, "_mark", interrupted(mark))
    with pytest.raises(KeyboardInterrupt):
        block.__exit__(None, None, None)
    monkeypatch.undo()
    assert writes["again"] == 0
    assert bits(optimizer) == before
    optimizer.step()


@pytest.mark.parametrize("after", range(1, 4))
def test_an_interrupt_on_the_way_in_leaves_nothing_half_done(after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer, _ = stepped()
    before = bits(optimizer)
    left = [after]

    class Interrupted(points._Slots):
        def __init__(self, *args: Any) -> None:
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
            super().__init__(*args)

    monkeypatch.setattr(points, "_Slots", Interrupted)
    with pytest.raises(KeyboardInterrupt), optimizer.at_iterate():
        raise AssertionError("entered")
    monkeypatch.undo()
    assert bits(optimizer) == before
    optimizer.step()


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("action", [*REFUSED, "at_iterate()"])
def test_nothing_is_changed_inside_a_closure_at_the_point(action: str, steps: int) -> None:
    optimizer, parameters = stepped(steps)
    before = bits(optimizer)

    def closure() -> None:
        gradients(parameters)
        if action == "at_iterate()":
            with optimizer.at_iterate():
                pass
        else:
            REFUSED[action](optimizer)

    with pytest.raises(ParameterError, match="inside a closure at the look-ahead point") as caught:
        optimizer.step(closure)
    assert "after step(closure)" in caught.value.fix
    assert bits(optimizer) == before
    assert not optimizer.state or steps
    optimizer.step(lambda: gradients(parameters))


def broken_closure(parameters: list[torch.nn.Parameter]) -> None:
    gradients(parameters)
    raise KeyError("closure")


def misshapen(parameters: list[torch.nn.Parameter]) -> None:
    gradients(parameters)
    sparse = torch.sparse_coo_tensor([[0]], [1.0], (4,), dtype=torch.float64, check_invariants=True)
    parameters[2].grad = sparse


FAILING: dict[str, tuple[Callable[[Any], None], Any, str]] = {
    "the closure raises": (broken_closure, KeyError, "propagate"),
    "a gradient is refused": (misshapen, StepruleError, "propagate"),
    "a guard raises": (lambda found: gradients(found, math.nan), NonFiniteError, "raise"),
    "a guard skips": (lambda found: gradients(found, math.inf), None, "skip"),
}


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("why", FAILING)
def test_a_step_with_a_closure_that_does_not_happen_leaves_no_trace(why: str, steps: int) -> None:
    """No parameter, no slot, no mark, no state where there was none; the steps that follow are those without it."""
    closure, kind, nonfinite = FAILING[why]
    optimizer, parameters = stepped(steps, nonfinite=nonfinite)
    other, its = stepped(steps, nonfinite=nonfinite)
    before = bits(optimizer)
    if kind is None:
        optimizer.step(lambda: closure(parameters))
    else:
        with pytest.raises(kind):
            optimizer.step(lambda: closure(parameters))
    assert bits(optimizer) == before
    assert len(optimizer.state) == (3 if steps else 0)
    for _ in range(2):
        for both in (optimizer, other):
            gradients(both.param_groups[0]["params"])
            both.step()
        assert bits(optimizer) == bits(other)
    optimizer.step(lambda: gradients(parameters))
    other.step(lambda: gradients(its))
    assert bits(optimizer) == bits(other)


def test_a_parameter_without_a_gradient_is_left_at_its_point_by_a_closure() -> None:
    optimizer, parameters = stepped()
    before = raw(parameters[1])

    def closure() -> None:
        gradients(parameters)
        parameters[1].grad = None

    optimizer.step(closure)
    assert raw(parameters[1]) == before
    assert [float(optimizer.state[p]["ahead"]) for p in parameters] == [0.0, 1.0, 0.0]


def test_a_key_of_a_group_that_is_called_as_a_slot_is_not_read_for_it() -> None:
    optimizer, _ = stepped()
    expected = iterates(optimizer)
    optimizer.param_groups[0].update(last_lr=5.0, ahead=0.0, t=7)
    assert iterates(optimizer) == expected
