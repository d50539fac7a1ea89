"""Raw pointers and memory that is fenced, tiny, huge, freed, moved, or taken away while a kernel runs."""

from __future__ import annotations

import math
import mmap
import sys
import threading
import time
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from truth import CLIPPED, bits, corrected_adam, fill_gradients, make, raw

import steprule as sr
from child import HERE, survives
from counted import calls
from steprule import board
from steprule.backends.chunks import chunks
from steprule.backends.numba_cpu import CHUNK, CpuBatch, CpuKernel
from steprule.errors import ParameterError
from steprule.plan.program import lowered
from steprule.plan.schedule import schedule

sys.path.append(str(HERE / "fuzz"))
from fenced import Fenced

pytestmark = pytest.mark.cpu

TAILS = (1, 3, 7, 17, 63, 1023, 4097, 32_769, 70_001)
"""Lengths that leave a rest at every vector width, at a page and at a chunk."""


# Fences --------------------------------------------------------------------------------------------------

FENCED: dict[str, tuple[Any, torch.dtype]] = {
    "adam, float32": (corrected_adam, torch.float32),
    "adam, float64": (corrected_adam, torch.float64),
    "two passes, float32": (CLIPPED, torch.float32),
    "no state, float64": (board.sgd, torch.float64),
    "eager, bfloat16": (CLIPPED, torch.bfloat16),
}
AT_LOWER, AT_UPPER = (SimpleNamespace(random=lambda value=value: value) for value in (0.0, 1.0))


def step_between_fences() -> None:
    """Step parameters, gradients and slots that touch an unreadable page, and the same ones in plain memory."""
    for rule, dtype in FENCED.values():
        held: list[Fenced] = []

        def fenced(values: torch.Tensor, place: Any, held: list[Fenced] = held) -> torch.Tensor:
            held.append(Fenced(values.detach(), "contiguous", place))
            return held[-1].tensor

        values = [torch.randn(size, dtype=torch.float64).to(dtype) for size in TAILS for _ in range(2)]
        places = [AT_LOWER, AT_UPPER] * len(TAILS)
        inside = [torch.nn.Parameter(fenced(value, place)) for value, place in zip(values, places, strict=True)]
        plain = [torch.nn.Parameter(value.clone()) for value in values]
        ours, twin = sr.Optimizer(inside, rule, lr=0.1), sr.Optimizer(plain, rule, lr=0.1)
        for number in range(4):
            fill_gradients(plain)
            for parameter, other, place in zip(inside, plain, places, strict=True):
                parameter.grad = fenced(other.grad, place)
            if number == 3:  # one stored number, with nothing readable beside it
                plain[-1].grad, inside[-1].grad = (
                    cell.expand(TAILS[-1])
                    for cell in (torch.ones(1, dtype=dtype), fenced(torch.ones(1).to(dtype), AT_UPPER))
                )
            if number == 1:
                for parameter, place in zip(inside, places, strict=True):
                    state = ours.state[parameter]
                    state.update({key: fenced(slot, place) for key, slot in state.items() if slot.dim()})
            pointed = [slot.data_ptr() for p in inside for slot in ours.state[p].values() if slot.dim()]
            ours.step()
            twin.step()
            assert number == 0 or pointed == [s.data_ptr() for p in inside for s in ours.state[p].values() if s.dim()]
        assert bits(ours) == bits(twin)
        assert not any(one.broken() for one in held)


@pytest.mark.hostile("M2", "M4")
def test_not_one_byte_beside_a_tensor_is_read_or_written() -> None:
    survives(step_between_fences)


# Lengths -------------------------------------------------------------------------------------------------


@pytest.mark.hostile("M10")
def test_every_length_of_tail_gives_torchs_numbers() -> None:
    ours = [torch.nn.Parameter(torch.randn(size)) for size in TAILS]
    theirs = [torch.nn.Parameter(parameter.detach().clone()) for parameter in ours]
    own, twin = sr.optim.Adam(ours, lr=0.1), torch.optim.Adam(theirs, lr=0.1, foreach=False)
    for _ in range(3):
        fill_gradients(ours)
        for p, q in zip(ours, theirs, strict=True):
            q.grad = p.grad.clone()
        own.step()
        twin.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.hostile("M10")
def test_a_hundred_thousand_parameters_of_one_element_step_and_work_grows_as_their_number() -> None:
    """A norm over all of them shows whether each was counted."""
    spent = {}
    for count in (1_000, 1_000, 10_000, 100_000):  # the first compiles
        field = torch.ones(count)
        parameters = [torch.nn.Parameter(cell) for cell in field.split(1)]
        optimizer = sr.Optimizer(parameters, CLIPPED, lr=1.0, beta=0.0, max_norm=1.0)
        for parameter in parameters:
            parameter.grad = torch.ones(1)
        if count < 100_000:
            spent[count] = calls(lambda step=optimizer.step: (step(), step()))
        else:
            optimizer.step()
            optimizer.step()
        assert torch.allclose(field, torch.full((count,), 1 - 2 / math.sqrt(count)), rtol=0, atol=1e-6)
    assert 2 * 1_000 < spent[10_000] < 10.5 * spent[1_000]


@pytest.mark.hostile("M9")
def test_without_a_gradient_nothing_is_compiled_or_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CpuKernel, "function", property(lambda self: pytest.fail("a kernel was wanted")))
    parameters = make((0,), (3, 0), (2,))
    optimizer = sr.Optimizer(parameters, CLIPPED)
    before = bits(optimizer)
    for _ in range(3):
        optimizer.step()
    assert bits(optimizer) == before


@pytest.mark.null
@pytest.mark.hostile("M11")
def test_the_table_of_chunks_covers_tensors_longer_than_32_bits_can_count() -> None:
    sizes = [2**31 + 5, 0, 3, 2**33]
    table = chunks(sizes, CHUNK)
    assert table.dtype == np.int64
    for tensor, size in enumerate(sizes):
        own = table[table[:, 0] == tensor]
        assert own[:, 2].sum() == size
        assert (own[:, 1] == np.arange(len(own)) * CHUNK).all()
        assert not len(own) or own[-1, 1] + own[-1, 2] == size


@pytest.mark.hostile("M11")
def test_a_kernel_reaches_elements_beyond_32_bits() -> None:
    """Three arrays of 8 GiB that nobody pays for: pages that are never touched do not exist."""
    count, no_reserve = 2**31 + 100_000, 0x4000

    def array() -> torch.Tensor:
        memory = mmap.mmap(-1, 4 * count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve)
        return torch.frombuffer(memory, dtype=torch.float32)

    try:
        theta, g, m = array(), array(), array()
    except OSError as error:
        pytest.skip(f"no address space: {error}")
    theta[-3:], g[-3:], m[-3:] = 1.0, 2.0, 4.0
    kernel = CpuKernel(lowered(schedule(board.momentum.graph)))
    batch = CpuBatch(kernel, {"theta": [theta], "g": [g], "m": [m]}, [0])
    batch.begin(np.array([[1.0, 0.5]]))
    last = len(batch._chunks)
    batch._cut_into(np.array([last - 1, last]))
    batch._directory[-1] = 1
    batch._function(0, 1, batch._where)
    assert theta[-4:].tolist() == [0.0, -2.0, -2.0, -2.0]
    assert m[-4:].tolist() == [0.0, 3.0, 3.0, 3.0]


# Freed and moved -----------------------------------------------------------------------------------------


def trained() -> tuple[torch.nn.Parameter, sr.Optimizer]:
    (parameter,) = make((1000,))
    optimizer = board.momentum.optimizer([parameter])
    for _ in range(3):
        fill_gradients([parameter])
        optimizer.step()
    fill_gradients([parameter])
    return parameter, optimizer


def step_on_freed_memory(which: str, left: int) -> None:
    """Free the memory of something that has been stepped before; the step must be refused, and the next one work."""
    parameter, optimizer = trained()
    tensor = {"parameter": parameter, "gradient": parameter.grad, "state": optimizer.state[parameter]["m"]}[which]
    kept, storage = tensor.detach().clone(), tensor.untyped_storage()
    storage.resize_(left)
    for _ in range(2):
        with pytest.raises(ParameterError, match="was freed"):
            optimizer.step()
    storage.resize_(4000)
    tensor.detach().copy_(kept)
    optimizer.step()
    assert torch.isfinite(parameter).all()


@pytest.mark.hostile("M14")
@pytest.mark.parametrize("left", [0, 16])
@pytest.mark.parametrize("which", ["parameter", "gradient", "state"])
def test_memory_that_is_freed_after_steps_is_refused(which: str, left: int) -> None:
    survives(step_on_freed_memory, which, left)


def step_on_a_smaller_storage_at_the_same_address() -> None:
    """Shrink a storage again and again until the allocator gives back the address that the kernel knows."""
    back = 0
    for _ in range(200):
        parameter = torch.nn.Parameter(torch.zeros(100))
        optimizer = board.sgd.optimizer([parameter])
        parameter.grad = torch.ones(100)
        optimizer.step()
        address, storage = parameter.data_ptr(), parameter.untyped_storage()
        for size in range(8, 360, 16):
            storage.resize_(size)
            if parameter.data_ptr() == address:
                back += 1
                with pytest.raises(ParameterError, match="was freed"):
                    optimizer.step()
                break
        if back > 10:
            break
    assert back, "no address came back, so this shows nothing"


@pytest.mark.hostile("M14")
def test_memory_that_shrank_and_came_back_to_its_address_is_refused() -> None:
    survives(step_on_a_smaller_storage_at_the_same_address)


@pytest.mark.hostile("M15")
def test_addresses_that_go_from_tensor_to_tensor_confuse_nothing() -> None:
    """Gradients of many sizes are freed and made anew in another order, as backward passes do."""
    sizes = (1, 2, 3, 5, 8, 9, 15, 16, 17, 31, 33, 64)
    ours = [torch.nn.Parameter(torch.randn(size, dtype=torch.float64)) for size in sizes]
    theirs = [torch.nn.Parameter(parameter.detach().clone()) for parameter in ours]
    own, twin = board.sgd.optimizer(ours, lr=0.1), torch.optim.SGD(theirs, lr=0.1, foreach=False)
    met: dict[int, set[int]] = {}
    for number in range(60):
        own.zero_grad()
        for index in torch.randperm(len(sizes), generator=torch.Generator().manual_seed(number)).tolist():
            theirs[index].grad = torch.randn(sizes[index], dtype=torch.float64)
            ours[index].grad = theirs[index].grad.clone()
            met.setdefault(ours[index].grad.data_ptr(), set()).add(sizes[index])
        own.step()
        twin.step()
    assert any(len(seen) > 1 for seen in met.values())
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-13, atol=1e-14)


@pytest.mark.hostile("M15")
@pytest.mark.parametrize("program", [CLIPPED, corrected_adam], ids=lambda program: program.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_gradient_outlives_its_step(program: Any, dtype: torch.dtype) -> None:
    """What is held for a kernel is let go after it: gradients are as large as the model."""
    (parameter,) = make((5,), dtype=dtype)
    optimizer = sr.Optimizer([parameter], program)
    for _ in range(3):
        fill_gradients([parameter])
        gradient = weakref.ref(parameter.grad)
        optimizer.step()
        optimizer.zero_grad()
        assert gradient() is None


@pytest.mark.hostile("M12")
@pytest.mark.parametrize("view", [torch.Tensor.t, torch._neg_view], ids=["transposed", "negated"])
def test_a_slot_that_is_replaced_by_another_view_of_its_memory_is_followed(view: Callable[..., torch.Tensor]) -> None:
    ends = []
    for change in (view, lambda slot: view(slot).clone(memory_format=torch.contiguous_format).resolve_neg()):
        torch.manual_seed(3)
        (parameter,) = make((4, 4))
        optimizer = board.momentum.optimizer([parameter])
        for number in range(4):
            fill_gradients([parameter])
            if number == 2:
                state = optimizer.state[parameter]
                state["m"] = change(state["m"])
            optimizer.step()
        ends.append(raw(parameter))
    assert ends[0] == ends[1]


# Taken away in another thread ----------------------------------------------------------------------------


def step_while_data_is_replaced() -> None:
    """Kernels run without the interpreter's lock, so another thread may replace what they work on."""
    torch.set_num_threads(1)
    parameter = torch.nn.Parameter(torch.zeros(10_000_000))
    parameter.grad = torch.ones_like(parameter)
    optimizer = board.adam.optimizer([parameter])
    optimizer.step()
    stepping, replaced = threading.Event(), []
    stepping.set()

    def replace() -> None:
        while stepping.is_set():
            parameter.data = torch.zeros(10_000_000)
            parameter.grad = torch.ones(10_000_000)
            replaced.append(True)
            time.sleep(0.0005)

    thread = threading.Thread(target=replace)
    thread.start()
    while len(replaced) < 20:  # at whatever moment of a step that is
        optimizer.step()
    stepping.clear()
    thread.join()
    optimizer.step()
    assert torch.isfinite(parameter).all()


@pytest.mark.hostile("M21")
def test_memory_outlives_the_kernel_that_works_on_it() -> None:
    survives(step_while_data_is_replaced)
