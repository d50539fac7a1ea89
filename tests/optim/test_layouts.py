"""Any tensor torch can make: the result is the interpreter's, and not one byte beside it is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from truth import Truth, bits, corrected_adam, fill_gradients, make, raw, step_both

import steprule as sr
from steprule import board, chain
from steprule.errors import ParameterError

pytestmark = pytest.mark.cpu

PROGRAMS = {"adam": corrected_adam, "clipped": chain(sr.clip_global_norm(max_norm=0.5), board.momentum)}
DTYPES = [torch.float32, torch.float64]
Made = tuple[torch.nn.Parameter, Callable[[], torch.Tensor]]


def plain(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype)


def misaligned(count: int, dtype: torch.dtype) -> torch.Tensor:
    memory = bytearray(count * dtype.itemsize + 1)
    tensor = torch.frombuffer(memory, dtype=dtype, offset=1, count=count)
    return tensor.copy_(torch.randn(count, dtype=dtype))


def between_nans(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    field = torch.full((shape[0], 2 * shape[1]), torch.nan, dtype=dtype)
    field[:, ::2] = torch.randn(shape, dtype=dtype)
    return field[:, ::2]


def lazily_negated(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    complex_one = torch.randn(shape, dtype=torch.complex64 if dtype is torch.float32 else torch.complex128)
    negated = complex_one.conj().imag
    assert negated.is_neg()
    return negated


LAYOUTS: dict[str, Callable[[torch.dtype], tuple[torch.Tensor, Callable[[], torch.Tensor]]]] = {
    "empty": lambda d: (plain(0, dtype=d), lambda: plain(0, dtype=d)),
    "no dimension": lambda d: (plain(dtype=d), lambda: plain(dtype=d)),
    "transposed": lambda d: (plain(5, 3, dtype=d).t(), lambda: plain(3, 5, dtype=d)),
    "gradient transposed": lambda d: (plain(3, 5, dtype=d), lambda: plain(5, 3, dtype=d).t()),
    "both transposed": lambda d: (plain(5, 3, dtype=d).t(), lambda: plain(5, 3, dtype=d).t()),
    "permuted": lambda d: (plain(2, 3, 4, dtype=d).permute(2, 0, 1), lambda: plain(4, 2, 3, dtype=d)),
    "channels last": lambda d: (
        plain(2, 3, 4, 4, dtype=d).to(memory_format=torch.channels_last),
        lambda: plain(2, 3, 4, 4, dtype=d),
    ),
    "gradient channels last": lambda d: (
        plain(2, 3, 4, 4, dtype=d),
        lambda: plain(2, 3, 4, 4, dtype=d).to(memory_format=torch.channels_last),
    ),
    "strided": lambda d: (plain(4, 6, dtype=d)[:, ::2], lambda: plain(4, 3, dtype=d)),
    "a column": lambda d: (plain(6, 4, dtype=d)[:, 1], lambda: plain(6, 4, dtype=d)[:, 2]),
    "an inner box": lambda d: (plain(6, 6, dtype=d)[1:4, 2:5], lambda: plain(3, 3, dtype=d)),
    "lengths of one": lambda d: (plain(1, 3, 1, dtype=d), lambda: plain(3, 1, 1, dtype=d).permute(1, 0, 2)),
    "odd stride of one": lambda d: (plain(1, 3, dtype=d).as_strided((1, 3), (7, 1)), lambda: plain(1, 3, dtype=d)),
    "gradient expanded": lambda d: (plain(4, 3, dtype=d), lambda: plain(1, dtype=d).expand(4, 3)),
    "gradient a row expanded": lambda d: (plain(4, 3, dtype=d), lambda: plain(3, dtype=d).expand(4, 3)),
    "gradient of a sum": lambda d: (plain(5, dtype=d), lambda: plain(dtype=d).expand(5)),
    "gradient lazily negated": lambda d: (plain(4, 3, dtype=d), lambda: lazily_negated(4, 3, dtype=d)),
    "gradient between NaNs": lambda d: (plain(4, 3, dtype=d), lambda: between_nans(4, 3, dtype=d)),
    "misaligned": lambda d: (misaligned(7, d), lambda: plain(7, dtype=d)),
    "gradient misaligned": lambda d: (plain(7, dtype=d), lambda: misaligned(7, d)),
    "gradient of a parameter": lambda d: (plain(3, dtype=d), lambda: torch.nn.Parameter(plain(3, dtype=d))),
    "large": lambda d: (plain(70_001, dtype=d), lambda: plain(70_001, dtype=d)),
}


@pytest.mark.hostile("M1", "M3", "M4", "M5", "M6", "M17")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", PROGRAMS)
def test_every_layout_follows_the_interpreter(name: str, dtype: torch.dtype) -> None:
    """All layouts at once and each alone: a norm joins them, and a bad one must not hide among good ones."""
    made = {layout: build(dtype) for layout, build in LAYOUTS.items()}
    together = {layout: torch.nn.Parameter(tensor) for layout, (tensor, _) in made.items()}
    for members in [list(made), *([layout] for layout in made)]:
        chosen = [together[layout].detach().requires_grad_() for layout in members]
        optimizer = sr.Optimizer(chosen, PROGRAMS[name], lr=0.1)
        truth = Truth(optimizer)
        for _ in range(3):
            for layout, parameter in zip(members, chosen, strict=True):
                parameter.grad = made[layout][1]()
            step_both(optimizer, truth)
        assert [p.stride() for p in chosen] == [together[layout].stride() for layout in members]


@pytest.mark.hostile("M1")
@pytest.mark.parametrize("view", [np.s_[:, ::2], np.s_[1::2, 1], np.s_[2:4, 1:3], np.s_[::3]], ids=str)
def test_cells_between_a_parameters_elements_are_never_written(view: Any) -> None:
    field = torch.full((6, 4), -7.5)
    inside = torch.zeros(6, 4, dtype=torch.bool)
    inside[view] = True
    parameter = torch.nn.Parameter(field[view])
    optimizer = corrected_adam.optimizer([parameter], lr=1.0)
    for _ in range(3):
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    assert (field[~inside] == -7.5).all()
    assert (field[inside] < -9).all()


@pytest.mark.hostile("M1", "M2")
@settings(max_examples=120)
@given(data=st.data())
def test_random_views_in_random_groups_follow_the_interpreter(data: st.DataObject) -> None:
    """Shapes, strides, offsets, gradient layouts, missing gradients, groups and dtypes, all drawn."""
    draw = data.draw
    torch.manual_seed(draw(st.integers(0, 2**16)))

    def view(shape: list[int], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw a view of a shape: permuted, with gaps and an offset, in a field of sentinels."""
        order = draw(st.permutations(range(len(shape))))
        gaps = draw(st.lists(st.integers(1, 2), min_size=len(shape), max_size=len(shape)))
        offset = draw(st.integers(0, 2))
        strides, reach = [0] * len(shape), 1
        for axis in order:
            strides[axis] = reach * gaps[axis]
            reach = strides[axis] * max(shape[axis], 1)
        field = torch.full((offset + reach + 3,), 77.0, dtype=dtype)
        tensor = field.as_strided(shape, strides, offset)
        tensor.copy_(torch.randn(shape, dtype=dtype))
        return tensor, field

    shapes = draw(st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=4))
    dtypes = [draw(st.sampled_from(DTYPES)) for _ in shapes]
    made = [view(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    parameters = [torch.nn.Parameter(tensor) for tensor, _ in made]
    outside = [field.clone() for _, field in made]
    rates = st.sampled_from([0.0, 0.1, 1.0])
    groups = [{"params": [parameter], "lr": draw(rates)} for parameter in parameters]
    optimizer = sr.Optimizer(groups, PROGRAMS[draw(st.sampled_from(sorted(PROGRAMS)))])
    truth = Truth(optimizer)
    for _ in range(draw(st.integers(1, 3))):
        for parameter, shape in zip(parameters, shapes, strict=True):
            parameter.grad = view(shape, parameter.dtype)[0] if draw(st.integers(0, 3)) else None
        step_both(optimizer, truth)
    for (tensor, field), before in zip(made, outside, strict=True):
        tensor.detach().fill_(77.0)
        before.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).fill_(77.0)
        assert torch.equal(field, before)


# Refused ------------------------------------------------------------------------------------------------


def sharing() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    field, memory = torch.zeros(8, 8), np.zeros(10, dtype=np.float32)
    return {
        "the same": (field[0], field[0]),
        "a part": (field, field[2:4]),
        "both transposed": (field.t(), field[:3].t()),
        "both strided": (field[:, ::2], field[2:, ::2]),
        "crossing": (field[:, ::2], field[:, ::3]),
        "a row and a column": (field[3], field[:, 4]),
        "two views of an array": (torch.from_numpy(memory[:6]), torch.from_numpy(memory[5:])),
        "two dtypes": (field.view(-1)[:4], field.view(torch.float64).view(-1)[1:3]),
    }


@pytest.mark.hostile("M8")
@pytest.mark.parametrize("kind", sharing())
@pytest.mark.parametrize("order", [1, -1])
def test_parameters_that_share_memory_are_refused(kind: str, order: int) -> None:
    parameters = [torch.nn.Parameter(tensor) for tensor in sharing()[kind]][::order]
    apart = torch.nn.Parameter(torch.zeros(3))
    fill_gradients([*parameters, apart])
    optimizer = board.sgd.optimizer([apart, *parameters])
    with pytest.raises(ParameterError, match=r"parameter . of group 0 and parameter . of group 0 share memory"):
        optimizer.step()
    assert all(not parameter.any() for parameter in [*parameters, apart])


def test_parameters_that_only_lie_between_each_other_are_updated() -> None:
    field = torch.zeros(4, 6)
    views = [field[:, ::3], field[:, 1::3], field[:2, 2::3], field[2:, 2::3]]
    parameters = [torch.nn.Parameter(view) for view in views]
    for number, parameter in enumerate(parameters):
        parameter.grad = torch.full_like(parameter, -number)
    board.sgd.optimizer(parameters, lr=1.0).step()
    assert field.tolist() == [[0, 1, 2, 0, 1, 2]] * 2 + [[0, 1, 3, 0, 1, 3]] * 2


def spoiled() -> dict[str, tuple[Any, str]]:
    def parameter(tensor: torch.Tensor, gradient: torch.Tensor | None = None) -> torch.nn.Parameter:
        made = torch.nn.Parameter(tensor)
        made.grad = torch.ones_like(tensor) if gradient is None else gradient
        return made

    def freed(which: str) -> torch.nn.Parameter:
        made = parameter(torch.zeros(1000))
        (made if which == "parameter" else made.grad).untyped_storage().resize_(0)
        return made

    resized = parameter(torch.zeros(4))
    resized.data = torch.zeros(9)
    return {
        "expanded": (parameter(torch.zeros(1).expand(5)), "share memory"),
        "self-overlapping": (parameter(torch.zeros(9).as_strided((3, 3), (1, 1))), "share memory"),
        "complex": (parameter(torch.zeros(3, dtype=torch.complex64)), "complex64"),
        "sparse gradient": (parameter(torch.zeros(3), torch.eye(3)[0].to_sparse()), "sparse"),
        "freed parameter": (freed("parameter"), "was freed"),
        "freed gradient": (freed("gradient"), "was freed"),
        "another size": (resized, r"the gradient has shape \(4,\), the parameter \(9,\)"),
        "meta": (parameter(torch.zeros(3, device="meta")), "meta"),
    }


@pytest.mark.hostile("M7", "M12", "M14", "M18")
@pytest.mark.parametrize("kind", spoiled())
def test_what_cannot_be_updated_is_refused_by_name_before_anything_is_written(kind: str) -> None:
    bad, told = spoiled()[kind]
    good = torch.nn.Parameter(torch.zeros(3))
    good.grad = torch.ones(3)
    optimizer = board.momentum.optimizer([("layer.good", good), ("layer.bad", bad)])
    for _ in range(2):
        with pytest.raises(ParameterError, match=told) as caught:
            optimizer.step()
        assert "`layer.bad`" in str(caught.value)
        assert caught.value.fix
    assert not good.any()
    assert "share memory" not in told or not bad.any()
    bad.grad = None
    optimizer.step()
    assert good.tolist() == pytest.approx([-0.01] * 3)


@pytest.mark.hostile("M14")
def test_freed_state_is_refused() -> None:
    (parameter,) = make((1000,))
    optimizer = board.momentum.optimizer([parameter])
    fill_gradients([parameter])
    optimizer.step()
    optimizer.state[parameter]["m"].untyped_storage().resize_(0)
    with pytest.raises(ParameterError, match="memory of state 'm' was freed"):
        optimizer.step()


# Replaced in mid-training --------------------------------------------------------------------------------


@pytest.mark.hostile("M12")
def test_replaced_data_is_followed_and_the_old_memory_left_alone() -> None:
    (parameter,) = make((4, 3), dtype=torch.float64)
    optimizer = corrected_adam.optimizer([parameter])
    truth = Truth(optimizer)
    for replace in (torch.clone, lambda old: old.t().contiguous().t(), lambda old: old.repeat(1, 2)[:, :3]):
        fill_gradients([parameter])
        step_both(optimizer, truth)
        old = parameter.data
        kept = old.clone()
        parameter.data = replace(old)
        assert parameter.data_ptr() != old.data_ptr()
        fill_gradients([parameter])
        step_both(optimizer, truth)
        assert torch.equal(old, kept)


@pytest.mark.hostile("M12")
def test_data_of_another_size_needs_its_state_deleted() -> None:
    (parameter,) = make((4,))
    optimizer = board.momentum.optimizer([parameter])
    fill_gradients([parameter])
    optimizer.step()
    parameter.grad = None
    parameter.data = torch.ones(6)
    parameter.grad = torch.ones(6)
    with pytest.raises(ParameterError, match="state 'm' has shape"):
        optimizer.step()
    assert torch.equal(parameter, torch.ones(6))
    del optimizer.state[parameter]
    optimizer.step()
    assert parameter.tolist() == pytest.approx([0.99] * 6)


@pytest.mark.hostile("M13")
@pytest.mark.parametrize(("to", "near"), [(torch.float64, 1e-6), (torch.bfloat16, 2**-8)], ids=str)
def test_data_of_another_dtype_goes_on_from_the_old_state(to: torch.dtype, near: float) -> None:
    (parameter,) = make((5,))
    optimizer = corrected_adam.optimizer([parameter])
    truth = Truth(optimizer)
    fill_gradients([parameter])
    step_both(optimizer, truth)
    parameter.grad = None
    parameter.data = parameter.data.to(to)
    fill_gradients([parameter])
    truth.step()
    optimizer.step()
    expected = truth.arrays[parameter]["theta"]
    np.testing.assert_allclose(parameter.detach().double().numpy(), expected, rtol=near, atol=near)
    assert optimizer.state[parameter]["m"].dtype is torch.float32


def test_state_that_is_cleared_replaced_or_edited_is_followed() -> None:
    """The state dictionary is the user's too: nothing of it may live on in a table."""
    (parameter,) = make((5,), dtype=torch.float64)
    optimizer = corrected_adam.optimizer([parameter])
    gradient = torch.randn(5, dtype=torch.float64)

    def steps(count: int) -> list[tuple[str, bytes]]:
        for _ in range(count):
            parameter.grad = gradient.clone()
            optimizer.step()
        return bits(optimizer)

    start = raw(parameter)
    fresh = steps(3)

    def restart(reset: Callable[[], Any]) -> None:
        parameter.detach().copy_(torch.frombuffer(bytearray(start), dtype=torch.float64))
        reset()
        assert steps(3) == fresh

    restart(optimizer.state.clear)
    restart(lambda: optimizer.state.pop(parameter))
    restart(lambda: optimizer.state.__setitem__(parameter, {}))
    restart(lambda: [value.zero_() for value in optimizer.state[parameter].values()])
    zeros = {key: torch.zeros_like(value) for key, value in optimizer.state[parameter].items()}
    restart(lambda: optimizer.state[parameter].update(zeros))


@pytest.mark.cpu
def test_a_gradient_in_another_order_is_copied_at_every_step_and_nothing_is_bound_anew() -> None:
    """It may be absent, move, or be in order again; one that is wrong is refused as ever, and nothing is written."""
    ends = []
    for transposed in (True, False):
        torch.manual_seed(2)
        parameters = [torch.nn.Parameter(torch.randn(3, 4)) for _ in range(3)]
        optimizer, kept, bindings = sr.optim.AdamW(parameters, lr=0.1, clip=1.0), [], set()
        for number in range(8):
            for place, parameter in enumerate(parameters):
                gradient = torch.randn(3, 4)
                kept.append(gradient.T.contiguous().T if transposed and place < 2 and number % 4 < 3 else gradient)
                parameter.grad = None if (place, number) in {(0, 2), (1, 5)} else kept[-1]
            with torch.inference_mode(mode=number == 6):
                optimizer.step()
            bindings.add(id(optimizer._binding))
        assert len(bindings) == 1
        ends.append([parameter.detach().clone() for parameter in parameters])
        before = ends[-1]
        for wrong in (torch.ones(12)[:0].expand(3, 0), torch._neg_view(torch.ones(3, 4)), torch.ones(3, 4, 1)[..., 0]):
            parameters[0].grad = None
            parameters[0].grad = torch.ones(4, 3).T
            parameters[0].grad.data = wrong
            if wrong.shape == (3, 4):
                optimizer.step()
                before = [parameter.detach().clone() for parameter in parameters]
                continue
            with pytest.raises(sr.errors.ParameterError, match="the gradient has shape"):
                optimizer.step()
            assert all(torch.equal(a, b) for a, b in zip(parameters, before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
