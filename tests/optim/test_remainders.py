"""What lies beside 16-bit parameters: made, saved, loaded, resumed, refused, and left in place when others write."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Generator
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from stored_truth import HALF, draws, formula, halves, master
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from truth import bits, make

import steprule as sr
from steprule import board
from steprule.backends.half_torch import remainder_of
from steprule.errors import StateError

pytestmark = pytest.mark.cpu

ROUNDINGS = ["nearest", "stochastic", "compensated"]
every_half = pytest.mark.parametrize("dtype", HALF, ids=str)
every_rounding = pytest.mark.parametrize("rounding", ROUNDINGS)


def fill(parameters: Any, step: int) -> None:
    for place, parameter in enumerate(parameters):
        generator = torch.Generator().manual_seed(100 * step + place)
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)


def run(optimizer: Any, steps: range) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for step in steps:
        fill(parameters, step)
        optimizer.step()


def through_a_file(document: Any) -> Any:
    file = io.BytesIO()
    torch.save(document, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def twins(parameters: Any) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(parameter.detach().clone()) for parameter in parameters]


@every_half
@every_rounding
@pytest.mark.parametrize("name", ["AdamW", "SGD"])
@pytest.mark.parametrize("how", ["file", "pickle", "deepcopy"])
def test_a_run_goes_on_bit_for_bit(how: str, name: str, rounding: str, dtype: torch.dtype) -> None:
    parameters = make((7,), (2, 3), dtype=dtype)
    optimizer = getattr(sr.optim, name)(parameters, lr=1e-3, rounding=rounding, seed=4)
    run(optimizer, range(3))
    if how == "file":
        again = getattr(sr.optim, name)(twins(parameters), lr=1e-3, rounding=rounding, seed=4)
        again.load_state_dict(through_a_file(optimizer.state_dict()))
    else:
        again = copy.deepcopy(optimizer) if how == "deepcopy" else pickle.loads(pickle.dumps(optimizer))  # noqa: S301
    assert (again.rounding, again.seed, again.state_dtype) == (rounding, 4, None)
    for own in (optimizer, again):
        run(own, range(3, 6))
    assert bits(optimizer) == bits(again)


@every_rounding
@pytest.mark.parametrize("state", [None, "float32"])
def test_state_has_the_types_that_were_asked_for(rounding: str, state: Any) -> None:
    """Slots, numbers a tensor, and what lies beside the parameter, laid out as it is; nothing beside float32."""
    parameters = [torch.nn.Parameter(torch.zeros(3, 4).t()), *make((4, 3), (2,), dtype=torch.bfloat16)]
    parameters[1].data = parameters[1].data.t()
    optimizer = sr.optim.AdamW(parameters, rounding=rounding, state=state)
    run(optimizer, range(1))
    for parameter in parameters:
        own = optimizer.state[parameter]
        wanted = torch.float32 if state else parameter.dtype
        assert own["exp_avg"].dtype is own["exp_avg_sq"].dtype is wanted
        keeps = rounding == "compensated" and parameter.dtype is torch.bfloat16
        assert ("remainder" in own) == keeps
        assert not keeps or (own["remainder"].dtype, own["remainder"].stride()) == (torch.int16, parameter.stride())
    (plain,) = make((3,), dtype=torch.bfloat16)
    optimizer = sr.optim.SGD([plain], rounding=rounding)
    run(optimizer, range(2))
    assert ("step" in optimizer.state[plain]) == (rounding == "stochastic")
    if rounding == "stochastic":
        assert float(optimizer.state[plain]["step"]) == 2


@every_rounding
def test_state_that_is_loaded_keeps_its_own_types(rounding: str) -> None:
    """One slot in float32 and one in bfloat16 beside bfloat16, bfloat16 slots beside float32, and torch's own state."""
    (parameter,) = make((6,), dtype=torch.bfloat16)
    optimizer = sr.optim.AdamW([parameter], rounding=rounding)
    run(optimizer, range(2))
    saved = optimizer.state_dict()
    saved["state"][0]["exp_avg_sq"] = saved["state"][0]["exp_avg_sq"].float()
    optimizer.load_state_dict(through_a_file(saved))
    run(optimizer, range(2, 4))
    assert optimizer.state[parameter]["exp_avg"].dtype is torch.bfloat16
    assert optimizer.state[parameter]["exp_avg_sq"].dtype is torch.float32
    torchs = torch.optim.AdamW(others := twins([parameter]))
    fill(others, 1)
    torchs.step()
    optimizer.load_state_dict(through_a_file(torchs.state_dict()))
    run(optimizer, range(2))
    wide = torch.nn.Parameter(parameter.detach().float())
    other = sr.optim.AdamW([wide], rounding=rounding)
    other.load_state_dict(optimizer.state_dict())
    run(other, range(2))
    assert other.state[wide]["exp_avg"].dtype is torch.bfloat16
    assert "remainder" not in other.state[wide]
    assert sr.explain(other).storage.startswith("float32; `exp_avg`, `exp_avg_sq` in bfloat16, rounded ")


@pytest.mark.parametrize("first", ["parameters", "state"])
@every_half
def test_what_an_earlier_version_kept_in_float32_is_kept_in_16_bits(dtype: torch.dtype, first: str) -> None:
    """Its parameters were the nearest, and the remainder what that had left: together they stay what they were."""
    whole = torch.randn(500, generator=torch.Generator().manual_seed(2)) * 0.1 + 1
    stored = whole.to(dtype)
    left = {"remainder": whole - stored.float()}
    parameter = torch.nn.Parameter(stored.clone() if first == "parameters" else torch.zeros(500, dtype=dtype))
    optimizer = sr.optim.SGD([parameter], lr=0.0, compensated=True)
    optimizer.load_state_dict({"state": {0: left}, "param_groups": optimizer.state_dict()["param_groups"]})
    parameter.data.copy_(stored)
    run(optimizer, range(1))
    kept = optimizer.state[parameter]["remainder"]
    assert kept.dtype is torch.int16
    unit = 2.0**-8 if dtype is torch.bfloat16 else 2.0**-11
    np.testing.assert_allclose(master(parameter, kept), whole.numpy(), rtol=0, atol=unit * 2.0**-15)
    if dtype is torch.float16:
        np.testing.assert_array_equal(master(parameter, kept), whole.numpy())


@every_half
def test_a_remainder_that_says_what_16_bits_cannot_is_the_nearest_that_does(dtype: torch.dtype) -> None:
    """A tie that was rounded to the even neighbour, what is another parameter's, NaN, infinity and zeros."""
    one, unit = torch.tensor(1.0), 2.0**-7 if dtype is torch.bfloat16 else 2.0**-10
    stored = torch.tensor([1.0, 1.0, -1.0, 0.0, -0.0, math.inf, math.nan, 1.0]).to(dtype)
    left = torch.tensor([unit / 2, 7.0, 7.0, -1e-30, 1e-30, 1.0, 1.0, math.nan])
    whole = formula("joined", dtype)(halves(stored), remainder_of(stored, left).numpy())
    assert whole[0] == pytest.approx(1 + unit / 2, abs=unit * 2.0**-16)
    assert whole[1] == pytest.approx(float(one) + unit / 2, rel=1e-4)
    assert whole[2] == pytest.approx(-1 + unit / 2, rel=unit)
    assert whole[3:5].tolist() == [0.0, 0.0]
    assert whole[5] == math.inf
    assert math.isnan(whole[6])
    assert whole[7] == 1.0


def test_a_checkpoint_without_a_remainder_begins_with_none() -> None:
    (parameter,) = make((5,), dtype=torch.bfloat16)
    plain = sr.optim.AdamW([parameter])
    run(plain, range(2))
    optimizer = sr.optim.AdamW([parameter], rounding="compensated")
    optimizer.load_state_dict(plain.state_dict())
    assert "remainder" not in optimizer.state[parameter]
    before = master(parameter, torch.zeros(5, dtype=torch.int16))
    optimizer.param_groups[0].update(lr=0.0)
    run(optimizer, range(1))
    np.testing.assert_array_equal(master(parameter, optimizer.state[parameter]["remainder"]), before)


@pytest.mark.parametrize("source", ROUNDINGS)
@pytest.mark.parametrize("target", ROUNDINGS)
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_state_moves_between_roundings(name: str, source: str, target: str) -> None:
    """A remainder stays behind where none is kept, so that it is never another parameter's; counts begin at 0."""
    (parameter,) = make((5,), dtype=torch.bfloat16)
    one = getattr(sr.optim, name)([parameter], rounding=source)
    run(one, range(3))
    other = getattr(sr.optim, name)(own := twins([parameter]), rounding=target)
    other.load_state_dict(through_a_file(one.state_dict()))
    run(other, range(2))
    assert ("remainder" in other.state[own[0]]) == (target == "compensated")
    counted = other.state[own[0]].get("step")
    before, after = (name == "AdamW" or rounding == "stochastic" for rounding in (source, target))
    assert (counted is not None) == (before or after)
    assert counted is None or float(counted) == 3 * before + 2 * after


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (torch.zeros(5, dtype=torch.int32), "is torch.int32, not torch.int16"),
        (torch.zeros(4, dtype=torch.int16), "has shape (4,), but (5,) is needed"),
        (torch.zeros((), dtype=torch.int16), "has shape (), but (5,) is needed"),
        (torch.zeros(5, dtype=torch.bool), "is torch.bool, not torch.int16"),
        ([0] * 5, "is no floating-point tensor"),
    ],
    ids=str,
)
def test_what_is_no_remainder_is_refused_by_name(value: Any, told: str) -> None:
    (parameter,) = make((5,), dtype=torch.bfloat16)
    optimizer = sr.optim.AdamW([("weight", parameter)], rounding="compensated")
    run(optimizer, range(1))
    before, saved = bits(optimizer), copy.deepcopy(optimizer.state_dict())
    saved["state"][0]["remainder"] = value
    with pytest.raises(StateError) as caught:
        optimizer.load_state_dict(saved)
    assert caught.value.what == f"the saved 'remainder' {told}"
    assert "`weight`" in caught.value.where
    assert caught.value.fix
    assert bits(optimizer) == before
    if isinstance(value, torch.Tensor):
        optimizer.state[parameter]["remainder"] = value
        with pytest.raises(sr.errors.ParameterError, match="'remainder'"):
            run(optimizer, range(1))


# Others write to parameters --------------------------------------------------------------------------


@every_half
def test_what_is_written_into_a_parameter_counts_from_there(dtype: torch.dtype) -> None:
    """Copies, masks of zeros, clamps: the parameter is what was written, and its master within half of the last bit."""
    parameter = torch.nn.Parameter(torch.linspace(-2, 2, 400).to(dtype))
    optimizer = sr.optim.SGD([parameter], lr=1e-4, rounding="compensated")
    run(optimizer, range(5))
    for write in (
        lambda p: p.data.copy_(torch.linspace(3, -3, 400)),
        lambda p: p.data.mul_(torch.arange(400) % 3 != 0),
        lambda p: p.data.zero_(),
        lambda p: p.data.clamp_(-0.5, 0.5),
    ):
        write(parameter)
        written = parameter.detach().clone()
        optimizer.param_groups[0]["lr"] = 0.0
        run(optimizer, range(1))
        if dtype is torch.bfloat16:
            assert torch.equal(parameter, written)  # below a power of two float16's neighbours are nearer
        whole = master(parameter, optimizer.state[parameter]["remainder"])
        unit = torch.finfo(dtype).eps * written.double().abs() + torch.finfo(dtype).tiny
        assert np.isfinite(whole).all()
        assert (np.abs(whole - written.double().numpy()) <= unit.numpy()).all()
        optimizer.param_groups[0]["lr"] = 1e-4
        run(optimizer, range(3))


def test_parameters_that_are_swapped_for_an_average_and_back_go_on_as_if_nothing_was() -> None:
    (parameter,) = make((50,), dtype=torch.bfloat16)
    pair = copy.deepcopy(optimizer := sr.optim.AdamW([parameter], rounding="compensated"))
    run(optimizer, range(3))
    run(pair, range(3))
    held = parameter.detach().clone()
    parameter.data.copy_(torch.randn(50))
    parameter.data.copy_(held)
    run(optimizer, range(3, 6))
    run(pair, range(3, 6))
    assert bits(optimizer) == bits(pair)


def test_what_is_not_finite_stays_so_and_a_new_number_is_taken_up() -> None:
    (parameter,) = make((4,), dtype=torch.bfloat16)
    optimizer = sr.optim.SGD([parameter], lr=1e-3, rounding="compensated")
    run(optimizer, range(2))
    parameter.data[:2] = torch.tensor([math.nan, -math.inf])
    run(optimizer, range(1))
    assert math.isnan(float(parameter.detach()[0]))
    parameter.data[:2] = 1.0
    run(optimizer, range(1))
    assert parameter.detach().isfinite().all()


def test_a_model_that_changes_its_type_takes_what_belongs_to_the_new_one() -> None:
    (parameter,) = make((6,), dtype=torch.bfloat16)
    optimizer = sr.optim.AdamW([parameter], rounding="compensated")
    run(optimizer, range(2))
    parameter.data = parameter.data.float()
    parameter.grad = None
    run(optimizer, range(1))
    assert "remainder" not in optimizer.state[parameter]
    parameter.data = parameter.data.half()
    parameter.grad = None
    run(optimizer, range(1))
    assert optimizer.state[parameter]["remainder"].dtype is torch.int16


# Shards -----------------------------------------------------------------------------------------------


@pytest.fixture
def third_of_four() -> Generator[None]:
    dist.init_process_group("fake", rank=2, world_size=4, store=FakeStore())
    yield
    dist.destroy_process_group()


def shared(whole: torch.Tensor, part: Any, placements: Any, mesh: Any) -> Any:
    tensor = DTensor.from_local(part.clone(), mesh, placements, shape=whole.shape, stride=whole.stride())
    return torch.nn.Parameter(tensor)


@pytest.mark.filterwarnings("ignore:torch.distributed:UserWarning")
@every_rounding
def test_a_part_becomes_what_it_becomes_in_the_whole(rounding: str, third_of_four: None) -> None:
    """Sharded along rows, columns or both, or copied: each element draws by its place in the whole tensor."""
    torch.manual_seed(1)
    whole = torch.randn(10, 8).bfloat16()
    gradient = torch.randn(10, 8).bfloat16()
    line, square = init_device_mesh("cpu", (4,)), init_device_mesh("cpu", (2, 2), mesh_dim_names=("a", "b"))
    cases = [
        (slice(6, 9), slice(None), [Shard(0)], line),
        (slice(None), slice(4, 6), [Shard(1)], line),
        (slice(None), slice(None), [Replicate()], line),
        (slice(5, 10), slice(0, 4), [Shard(0), Shard(1)], square),
    ]
    for rows, columns, placements, mesh in cases:
        plain = torch.nn.Parameter(whole.clone())
        part = shared(whole, whole[rows, columns], placements, mesh)
        optimizers = [sr.optim.AdamW([own], rounding=rounding, seed=7) for own in (plain, part)]
        for _ in range(3):
            plain.grad = gradient.clone()
            part.grad = DTensor.from_local(gradient[rows, columns].clone(), mesh, placements, shape=whole.shape,
                                           stride=whole.stride())  # fmt: skip
            for optimizer in optimizers:
                optimizer.step()
        assert torch.equal(part.detach()._local_tensor, plain.detach()[rows, columns])
        for key, value in optimizers[0].state[plain].items():
            own = optimizers[1].state[part][key]
            assert key == "step" or torch.equal(own._local_tensor, value[rows, columns])
        again = sr.optim.AdamW([part], rounding=rounding, seed=7)
        again.load_state_dict(optimizers[1].state_dict())
        part.grad = None
        assert sr.explain(again).storage == sr.explain(optimizers[0]).storage


def test_draws_of_another_seed_or_step_are_others_and_of_all_places_are_even() -> None:
    """What a test of the definitions relies on: 2¹⁶ places give every 16 bits about once."""
    places = np.arange(2**16)
    one = draws(1, 0, 1, 0, places)
    assert abs(float(one.mean()) / 2**15 - 1) < 0.02
    for key in ((2, 0, 1, 0), (1, 1, 1, 0), (1, 0, 2, 0), (1, 0, 1, 1), (1, 0, 1, 2)):
        assert abs(np.corrcoef(one, draws(*key, places))[0, 1]) < 0.02


def test_a_pickle_without_the_newer_options_loads() -> None:
    optimizer = board.adam.optimizer(make((3,), dtype=torch.bfloat16), lr=0.1)
    run(optimizer, range(1))
    form = optimizer.__getstate__()
    for name in ("rounding", "state_dtype", "seed"):
        del form[name]
    for compensated in (False, True):
        again = object.__new__(sr.Optimizer)
        again.__setstate__(copy.deepcopy({**form, "compensated": compensated}))
        assert (again.rounding, again.state_dtype, again.seed) == ("compensated" if compensated else "nearest", None, 0)
        run(again, range(1))
