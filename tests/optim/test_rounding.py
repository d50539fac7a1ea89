"""Parameters and state of 16 bits: nearest, stochastic and compensated stores, for every rule and whatever is near."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from stored_truth import HALF, StoredTruth, halves, master
from test_gpu_zoo import ZOO
from truth import bits, fill_gradients, make

import steprule as sr
from steprule import board, chain, rule, slot
from steprule.backends.triton_build import Build, building
from steprule.backends.triton_gpu import interpreted
from steprule.errors import HyperparameterError, RuleError

pytestmark = pytest.mark.cpu

ROUNDINGS = ["nearest", "stochastic", "compensated"]
KEPT = ["stochastic", "compensated"]
every_half = pytest.mark.parametrize("dtype", HALF, ids=str)


@rule
def exact(theta, g, m, k=slot(rank="tensor"), *, lr=0.125, beta=0.5):
    """Numbers with few bits, so that float32 arithmetic is exact; slots of two ranks."""
    m = beta * m + g
    return theta - lr * m, m, k + 1


def of_few_bits(shape: Any) -> torch.Tensor:
    """Return random numbers that every type holds, and whose sums and halves float32 holds, but 16 bits do not."""
    return torch.randint(-128, 129, shape) / 2.0 ** torch.randint(5, 9, shape)


def ones(dtype: torch.dtype, *shape: int) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.ones(shape, dtype=dtype))


def run(optimizer: Any, steps: int, gradient: Callable[[int, torch.Tensor], torch.Tensor]) -> None:
    """Step with gradients made of the step and the parameter."""
    for step in range(steps):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = gradient(step, parameter)
        optimizer.step()


def drawn(step: int, parameter: torch.Tensor) -> torch.Tensor:
    """Return random gradients that 16 bits hold, the same in every type."""
    generator = torch.Generator().manual_seed(step)
    return torch.randn(parameter.shape, generator=generator).bfloat16().half().to(parameter.dtype)


def beside(optimizer: Any, parameters: Any) -> Any:
    """Return the backend that runs an optimiser's parameters, for another whose bits shall be compared."""
    assert optimizer.param_groups[0]["params"] == parameters
    return sr.explain(optimizer).backend


# Small steps add up -----------------------------------------------------------------------------------


@every_half
@pytest.mark.parametrize("rounding", KEPT)
@pytest.mark.parametrize("make_one", [lambda p, **o: sr.optim.SGD(p, **o), lambda p, **o: board.sgd.optimizer(p, **o)])
def test_a_thousand_steps_of_a_thousandth_arrive(make_one: Any, rounding: str, dtype: torch.dtype) -> None:
    """From 1.0 to 2.0; rounded to the nearest bfloat16 stays at 1.0, and float16 is off by more."""
    parameter = ones(dtype, 400)
    run(make_one([parameter], lr=1e-3, rounding=rounding), 1000, lambda _, p: -torch.ones_like(p))
    assert float(parameter.detach().float().mean()) == pytest.approx(2.0, rel=0.01)


@pytest.mark.parametrize("rounding", KEPT)
def test_decay_alone_is_followed_though_each_step_is_a_thousandth_of_a_rounding(rounding: str) -> None:
    """AdamW with gradients of zero: (1 − lr · decay)^20,000 = 0.9802; a tenth of the steps where no kernel runs."""
    parameter = ones(torch.bfloat16, 2048)
    optimizer = sr.optim.AdamW([parameter], weight_decay=0.01, rounding=rounding)
    steps = 2_000 if beside(optimizer, [parameter]) == "eager" else 20_000
    optimizer.param_groups[0]["lr"] = 2.0 / steps
    parameter.grad = torch.zeros_like(parameter)
    for _ in range(steps):
        optimizer.step()
    assert float(parameter.detach().float().mean()) == pytest.approx(0.9802, abs=1e-3)


# Bit for bit ------------------------------------------------------------------------------------------


ANYWHERE = [None, "eager", pytest.param("triton_gpu", marks=pytest.mark.interp)]


@pytest.mark.parametrize(
    ("dtype", "rounding", "state"),
    [
        *product((torch.bfloat16, torch.float16), ROUNDINGS, (None, "float32")),
        (torch.float32, "nearest", "bfloat16"),
        (torch.bfloat16, "nearest", {"m": "bfloat16"}),
        (torch.float16, "compensated", {"m": "bfloat16"}),
        *product((torch.bfloat16, torch.float16), ("compensated8",), (None,)),
    ],
    ids=str,
)
@pytest.mark.parametrize("backend", ANYWHERE)
def test_what_is_stored_is_what_the_definitions_say(
    backend: Any, rounding: str, state: Any, dtype: torch.dtype
) -> None:
    """Parameter, remainder, slots and their draws, of several tensors, one of which is sometimes absent."""
    if backend == "triton_gpu" and not interpreted():
        pytest.skip("needs Triton to interpret kernels")
    torch.manual_seed(3)
    parameters = [torch.nn.Parameter(of_few_bits(shape).to(dtype)) for shape in ((40,), (), (0,), (5, 7), (3,))]
    optimizer = exact.optimizer(parameters, rounding=rounding, state=state, seed=2**63 + 5, backend=backend)
    truth = StoredTruth(optimizer)
    for step in range(6):
        for place, parameter in enumerate(parameters):
            parameter.grad = of_few_bits(parameter.shape).to(dtype) if (step + place) % 4 else None
        truth.step()
        optimizer.step()
        truth.agrees()


@pytest.mark.interp
@pytest.mark.skipif(not interpreted(), reason="needs Triton to interpret kernels")
def test_chunks_of_a_gpu_kernel_draw_for_their_place_in_the_whole() -> None:
    torch.manual_seed(3)
    parameters = [torch.nn.Parameter(of_few_bits(shape).to(torch.bfloat16)) for shape in ((21,), (3, 3))]
    with building(Build(chunk=8, block=4)):
        optimizer = exact.optimizer(parameters, rounding="stochastic", seed=7, backend="triton_gpu")
        truth = StoredTruth(optimizer)
        for _ in range(2):
            for parameter in parameters:
                parameter.grad = of_few_bits(parameter.shape).to(torch.bfloat16)
            truth.step()
            optimizer.step()
            truth.agrees()


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("backend", [None, "eager"])
@pytest.mark.parametrize(
    ("dtype", "kind"),
    [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float16), (torch.float16, torch.float32)],
    ids=str,
)
def test_a_slot_may_be_of_another_type_than_its_parameter(dtype: Any, kind: Any, backend: Any, rounding: str) -> None:
    """What was loaded stays as it is, and is rounded as the parameter is."""
    torch.manual_seed(5)
    parameter = torch.nn.Parameter(of_few_bits((70,)).to(dtype))
    optimizer = exact.optimizer([parameter], rounding=rounding, seed=8, backend=backend)
    saved = {"m": torch.zeros(70, dtype=kind), "k": torch.zeros(()), "step": torch.zeros(())}
    optimizer.load_state_dict({"state": {0: saved}, "param_groups": optimizer.state_dict()["param_groups"]})
    truth = StoredTruth(optimizer)
    for _ in range(4):
        parameter.grad = of_few_bits((70,)).to(dtype)
        truth.step()
        optimizer.step()
        truth.agrees()
    assert optimizer.state[parameter]["m"].dtype is kind


COMPARED: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"momentum": 0.9, "nesterov": True, "clip": 1.0}),
    ("AdamW", {"weight_decay": 0.1, "maximize": True}),
    ("AdamW", {"amsgrad": True, "clip": sr.clip_norm(max_norm=0.5), "nonfinite": "skip"}),
    ("RMSprop", {"centered": True, "momentum": 0.9}),
    ("NAdam", {"weight_decay": 0.1}),
    ("Adagrad", {"lr_decay": 0.1, "clip": sr.clip_value(limit=0.25)}),
    ("Lion", {"weight_decay": 0.1}),
    ("Adadelta", {}),
    ("LAMB", {}),
]


@pytest.mark.parametrize(("name", "options"), COMPARED, ids=str)
def test_compensated_bfloat16_is_float32_training_of_the_master_bit_for_bit(name: str, options: Any) -> None:
    """With the state in float32 too: parameter and remainder are what a float32 parameter is, at every step."""
    torch.manual_seed(1)
    narrow = [torch.nn.Parameter(torch.randn(shape).bfloat16()) for shape in ((4, 3), (9,))]
    wide = [torch.nn.Parameter(p.detach().float()) for p in narrow]
    one = getattr(sr.optim, name)(narrow, rounding="compensated", state="float32", **options)
    other = getattr(sr.optim, name)(wide, backend=beside(one, narrow), **options)
    for step in range(7):
        for own, its in zip(narrow, wide, strict=True):
            own.grad = drawn(step, own)
            its.grad = own.grad.float()
        one.step()
        other.step()
        for own, its in zip(narrow, wide, strict=True):
            np.testing.assert_array_equal(master(own, one.state[own]["remainder"]), its.detach().numpy())
            for key, value in other.state[its].items():
                assert torch.equal(one.state[own][key], value), key


def test_compensated_float16_is_float32_training_to_what_its_remainder_can_hold() -> None:
    """Bit for bit where float16 is normal, to 2⁻⁴⁰ below."""
    narrow = torch.nn.Parameter(torch.tensor([1.0, -3.0, 1e-4, 200.0, 0.0, 7.0, 3e-6]).half())
    wide = torch.nn.Parameter(narrow.detach().float())
    one = sr.optim.SGD([narrow], lr=0.03, rounding="compensated")
    other = sr.optim.SGD([wide], lr=0.03, backend=beside(one, [narrow]))
    for step in range(12):
        narrow.grad = drawn(step, narrow) * 10.0 ** (step % 7 - 4)
        wide.grad = narrow.grad.float()
        one.step()
        other.step()
        found, truth = master(narrow, one.state[narrow]["remainder"]), wide.detach().numpy()
        np.testing.assert_allclose(found, truth, rtol=0, atol=12 * 2.0**-40)
        normal = np.abs(truth) > 1e-3
        np.testing.assert_allclose(found[normal], truth[normal], rtol=2e-7)


@pytest.mark.parametrize("case", range(len(ZOO)), ids=lambda case: f"{ZOO[case][0]}-{ROUNDINGS[case % 3]}")
def test_every_class_is_near_float64_in_16_bits(case: int) -> None:
    """Within what the types of parameter and state can hold; each with one rounding and one type."""
    (name, options), rounding, dtype = ZOO[case], ROUNDINGS[case % 3], list(HALF)[case // 3 % 2]
    torch.manual_seed(2)
    shapes = {"Muon": [(3, 5), (2, 2), (0, 4)], "SOAP": [(3, 3), (), (0, 4)]}.get(name, [(3, 5), (), (0,)])
    narrow = make(*shapes, dtype=dtype)
    wide = [torch.nn.Parameter(p.detach().double()) for p in narrow]
    one = getattr(sr.optim, name)(narrow, rounding=rounding, state="float32", **options)
    other = getattr(sr.optim, name)(wide, backend="eager", **options)
    for step in range(3):
        for own, its in zip(narrow, wide, strict=True):
            own.grad = drawn(step, own)
            its.grad = own.grad.double()
        one.step(loss=2.0)  # Polyak's needs it
        other.step(loss=2.0)
    unit = 2.0**-8 if dtype is torch.bfloat16 else 2.0**-11
    for own, its in zip(narrow, wide, strict=True):
        torch.testing.assert_close(own.detach().double(), its.detach(), rtol=6 * unit, atol=12 * unit)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_threads_do_not_matter(rounding: str) -> None:
    """A tensor that several threads share, and one of odd strides."""
    before = torch.get_num_threads()
    ends = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            torch.manual_seed(4)
            parameters = make((300_001,), (6, 4), dtype=torch.bfloat16)
            parameters[1].data = parameters[1].data.t()
            optimizer = sr.optim.AdamW(parameters, lr=1e-3, rounding=rounding, seed=9)
            run(optimizer, 2, drawn)
            ends.append(bits(optimizer))
    finally:
        torch.set_num_threads(before)
    assert ends[0] == ends[1]


def test_a_draw_depends_on_seed_step_parameter_and_place_and_on_nothing_else() -> None:
    """Neither on which parameters are stepped together, nor on the order in which memory lies."""

    def ends(seed: int, positions: Any = (0, 1), *, turned: bool = False, split: bool = False) -> list[torch.Tensor]:
        parameters = [ones(torch.bfloat16, 30, 20) for _ in range(2)]
        for parameter in parameters if turned else ():
            parameter.data = parameter.data.t().contiguous().t()
        groups = parameters if not split else [{"params": [parameter]} for parameter in parameters]
        optimizer = sr.optim.SGD(groups, lr=1e-3, rounding="stochastic", seed=seed)
        for position in positions:
            parameters[position].grad = torch.ones_like(parameters[position])
        optimizer.step()
        return [parameter.detach().clone() for parameter in parameters]

    both = ends(5)
    assert not torch.equal(both[0], both[1])
    assert torch.equal(ends(5, (1,))[1], both[1])
    assert torch.equal(ends(5, turned=True)[0], both[0])
    assert all(map(torch.equal, ends(5, split=True), both))
    assert not torch.equal(ends(6)[0], both[0])
    parameter = ones(torch.bfloat16, 600)
    optimizer = sr.optim.SGD([parameter], lr=1e-3, rounding="stochastic")
    steps = []
    for _ in range(2):
        parameter.data.fill_(1.0)
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        steps.append(parameter.detach().clone())
    assert not torch.equal(*steps)


# What a step is ---------------------------------------------------------------------------------------


@every_half
@pytest.mark.parametrize("rounding", KEPT)
def test_a_step_of_nothing_changes_nothing(rounding: str, dtype: torch.dtype) -> None:
    """What 16 bits hold is stored as it is: checkpoint tools take such steps. So are NaN, infinities and −0."""
    special = [0.0, -0.0, math.inf, -math.inf, math.nan, 1.0, -1.5, float(torch.finfo(dtype).max), 6e-8, -1e-5]
    parameter = torch.nn.Parameter(torch.tensor(special).to(dtype))
    before = halves(parameter).copy()
    optimizer = sr.optim.AdamW([parameter], lr=0.0, rounding=rounding)
    for _ in range(3):
        parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    now = halves(parameter)
    assert np.array_equal(now[before != before[4]], before[before != before[4]])
    assert math.isnan(float(parameter.detach()[4]))


def test_what_overflows_is_infinite_and_a_master_that_does_not_comes_back() -> None:
    """bfloat16's last numbers round up to infinity; float32 goes further, so the remainder knows the way back."""
    largest = torch.tensor([3.3895e38]).bfloat16()
    parameter = torch.nn.Parameter(largest.clone())
    optimizer = sr.optim.SGD([parameter], lr=1.0, rounding="compensated")
    parameter.grad = torch.tensor([-1e36]).bfloat16()
    optimizer.step()
    assert parameter.item() == math.inf
    assert np.isfinite(master(parameter, optimizer.state[parameter]["remainder"])).all()
    parameter.grad = torch.tensor([2e36]).bfloat16()
    optimizer.step()
    assert parameter.item() < math.inf
    narrow = torch.nn.Parameter(torch.tensor([65504.0]).half())
    optimizer = sr.optim.SGD([narrow], lr=1.0, rounding="compensated")
    narrow.grad = torch.tensor([-100.0]).half()
    optimizer.step()
    assert narrow.item() == math.inf


@pytest.mark.parametrize("rounding", KEPT)
def test_guards_scalers_and_clipping_do_what_they_do_in_float32(rounding: str) -> None:
    """A step that is left out changes no bit and counts nothing; `found_inf` and `grad_scale` are GradScaler's."""
    parameters = make((5,), (2, 3), dtype=torch.bfloat16)
    optimizer = sr.optim.AdamW(parameters, nonfinite="skip", clip=1.0, fused=True, rounding=rounding)
    run(optimizer, 2, drawn)
    before = bits(optimizer)
    fill_gradients(parameters)
    parameters[1].grad[0, 0] = math.nan
    optimizer.step()
    assert bits(optimizer) == before
    fill_gradients(parameters)
    optimizer.found_inf, optimizer.grad_scale = torch.tensor(1.0), torch.tensor(4.0)
    optimizer.step()
    assert bits(optimizer) == before
    optimizer.found_inf.zero_()
    twin = sr.optim.AdamW(others := make((5,), (2, 3), dtype=torch.bfloat16), clip=1.0, rounding=rounding)
    twin.load_state_dict(optimizer.state_dict())
    for own, its in zip(parameters, others, strict=True):
        its.data.copy_(own.detach())
        its.grad = own.grad / 4
    optimizer.step()
    twin.step()
    assert bits(optimizer) == bits(twin) != before


@pytest.mark.parametrize("rounding", KEPT)
def test_float32_and_16_bits_share_one_norm_in_one_optimiser(rounding: str) -> None:
    """The float32 parameter becomes what it becomes beside a float32 twin of the other, and keeps no remainder."""
    narrow, beside_it = make((4,), dtype=torch.bfloat16)[0], make((3, 2))[0]
    wide, twin = torch.nn.Parameter(narrow.detach().float()), torch.nn.Parameter(beside_it.detach().clone())
    one = sr.optim.SGD([narrow, beside_it], lr=0.1, clip=0.5, rounding=rounding)
    other = sr.optim.SGD([wide, twin], lr=0.1, clip=0.5)
    narrow.grad, beside_it.grad = drawn(0, narrow), drawn(1, beside_it)
    wide.grad, twin.grad = narrow.grad.float(), beside_it.grad.clone()
    one.step()
    other.step()
    torch.testing.assert_close(beside_it, twin, rtol=1e-6, atol=1e-7)
    assert "remainder" not in one.state[beside_it]
    assert ("remainder" in one.state[narrow]) == (rounding == "compensated")


@pytest.mark.parametrize("rounding", KEPT)
def test_parameters_that_lose_nothing_are_what_they_are_without(rounding: str) -> None:
    plain, kept = make((50,)), make((50,))
    kept[0].data.copy_(plain[0].detach())
    one, other = sr.optim.Adam(plain), sr.optim.Adam(kept, rounding=rounding)
    for _ in range(5):
        fill_gradients(plain)
        kept[0].grad = plain[0].grad.clone()
        one.step()
        other.step()
    assert bits(one) == bits(other)


def test_parameters_may_come_late_and_gradients_may_be_absent() -> None:
    """Positions are places in the optimiser, so a parameter's draws do not change when others come or go."""
    ends = []
    for together in (True, False):
        parameters = [ones(torch.bfloat16, 64) for _ in range(3)]
        optimizer = sr.optim.SGD(parameters[:2], lr=1e-3, rounding="stochastic")
        late = lambda optimizer=optimizer, parameters=parameters: optimizer.add_param_group({"params": parameters[2:]})  # noqa: E731
        if together:
            late()
        for step in range(3):
            for place, parameter in enumerate(parameters):
                parameter.grad = torch.ones_like(parameter) if place != 1 or step else None
            if step == 1 and not together:
                late()
            optimizer.step()
        ends.append([parameter.detach().clone() for parameter in parameters])
    assert torch.equal(ends[0][0], ends[1][0])
    assert torch.equal(ends[0][1], ends[1][1])


@pytest.mark.parametrize("closures", [0, 1, 2])
def test_stochastic_rounding_has_no_bias_with_a_look_ahead(closures: int) -> None:
    """Without a closure, with one in turns, and at every step: also what moves to the iterate and back is drawn."""
    (narrow, optimizer), (wide, truth) = [
        (own := ones(dtype, count), board.nesterov.optimizer([own], lr=1e-4, rounding="stochastic", state="float32"))
        for dtype, count in ((torch.bfloat16, 4000), (torch.float64, 1))
    ]
    for step in range(42):
        for parameter, own in ((narrow, optimizer), (wide, truth)):
            parameter.grad = torch.ones_like(parameter)
            own.step((lambda: None) if step % 3 < closures * 1.5 else None)
    with optimizer.at_iterate(), truth.at_iterate():
        assert float(narrow.detach().double().mean()) == pytest.approx(float(wide.detach()[0]), abs=4e-4)


# What is asked for ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"rounding": "up"}, "rounding is 'up'"),
        ({"rounding": None}, "rounding is None"),
        ({"state": "int8"}, "state is 'int8'"),
        ({"state": torch.float32}, "state is torch.float32"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, f"seed is {2**64}"),
        ({"seed": 1.0}, "seed is 1.0"),
        ({"seed": True}, "seed is True"),
        ({"compensated": True, "rounding": "stochastic"}, "contradict each other"),
    ],
    ids=str,
)
def test_a_value_that_is_none_of_an_option_is_refused(asked: Any, told: str) -> None:
    for make_one in (sr.optim.AdamW, board.adam.optimizer):
        with pytest.raises(HyperparameterError, match=told) as caught:
            make_one(make((2,)), **asked)
        assert caught.value.fix


def test_compensated_is_a_word_for_a_rounding() -> None:
    for asked in ({"compensated": True}, {"rounding": "compensated"}, {"compensated": True, "rounding": "compensated"}):
        optimizer = sr.optim.AdamW(make((2,), dtype=torch.bfloat16), **asked)
        assert (optimizer.compensated, optimizer.rounding) == (True, "compensated")
        with pytest.raises(HyperparameterError, match="rounding is decided when an optimiser is made"):
            optimizer.rounding = "nearest"
        with pytest.raises(HyperparameterError, match="compensated is decided when an optimiser is made"):
            optimizer.compensated = False
    assert not sr.optim.AdamW(make((2,)), rounding="stochastic").compensated


def test_what_cannot_be_compensated_is_refused() -> None:
    with pytest.raises(RuleError, match="look-ahead"):
        board.nesterov.optimizer(make((2,)), rounding="compensated")

    @rule
    def own(theta, g, remainder, *, lr=0.1):
        return theta - lr * g, remainder + g

    with pytest.raises(RuleError, match="`remainder` of its own"):
        own.optimizer(make((2,)), compensated=True)
    optimizer = own.optimizer(parameters := make((2,), dtype=torch.bfloat16), rounding="stochastic")
    run(optimizer, 1, lambda _, p: torch.ones_like(p))
    assert optimizer.state[parameters[0]]["remainder"].tolist() == [1.0, 1.0]


def test_what_is_stored_is_explained_beside_the_formula() -> None:
    program = chain(sr.clip_global_norm(max_norm=1.0), board.adam(lr=0.1))
    told = {rounding: sr.explain(program.optimizer(make((2,), dtype=torch.bfloat16), rounding=rounding))
            for rounding in ROUNDINGS}  # fmt: skip
    assert {one.formula for one in told.values()} == {sr.explain(program).formula}
    assert told["nearest"].storage == "bfloat16, rounded to the nearest"
    assert told["stochastic"].storage == "bfloat16, rounded stochastically"
    assert told["compensated"].storage.startswith("bfloat16 and 16 more bits in `remainder`, together float32")
    assert [told[one].state_bytes_per_parameter for one in ROUNDINGS] == [4, 4, 6]
    assert [told[one].bytes_per_parameter for one in ROUNDINGS] == [16, 16, 20]
    mixed = sr.explain(sr.optim.AdamW(make((2,), dtype=torch.float16), rounding="stochastic", state="float32"))
    assert mixed.storage == "float16; `exp_avg`, `exp_avg_sq` in float32, rounded stochastically"
    assert f"stored: {mixed.storage}" in str(mixed)
    assert mixed.as_json()["groups"][0]["storage"] == mixed.storage
    assert "stored:" not in str(sr.explain(sr.optim.AdamW(make((2,)), rounding="stochastic")))
