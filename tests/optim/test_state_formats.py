"""State in other formats than its parameter's: what is asked for, of which slots, and how it is kept and loaded."""

from __future__ import annotations

import io
from itertools import product
from typing import Any

import pytest
import torch
from stored_truth import StoredTruth, master
from truth import bits, make

import steprule as sr
from steprule import board, rule, slot
from steprule.errors import HyperparameterError, ParameterError, StateError

pytestmark = pytest.mark.cpu


@rule
def own(theta, g, fast, slow, k=slot(rank="tensor"), *, lr=0.01, beta=0.9):
    """A rule that the package does not know: two slots as large as the parameter, and one number."""
    fast = beta * fast + (1 - beta) * g
    slow = 0.999 * slow + 0.001 * fast
    return theta - lr * (fast + slow), fast, slow, k + 1


def train(optimizer: Any, steps: int, seed: int = 0) -> None:
    """Step with random gradients."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        optimizer.step()


def types(optimizer: Any) -> dict[str, torch.dtype]:
    """Return the types of the state of the first parameter."""
    return {key: value.dtype for key, value in optimizer.state[optimizer.param_groups[0]["params"][0]].items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
def test_any_rule_has_its_slots_in_bfloat16_all_or_by_name(dtype: torch.dtype) -> None:
    """Numbers that are one a tensor or one a step stay as they are; float64 runs as torch operations, and says so."""
    for asked, form in (("bfloat16", {"fast", "slow"}), ({"slow": "bfloat16"}, {"slow"})):
        optimizer = own.optimizer(make((4, 3), dtype=dtype), state=asked)
        train(optimizer, 2)
        found = types(optimizer)
        for name in ("fast", "slow"):
            assert found[name] == (torch.bfloat16 if name in form else dtype)
        assert found["k"] == (dtype if dtype is torch.float64 else torch.float32)
        told = sr.explain(optimizer)
        alone = dtype is torch.float64
        assert told.backend == ("eager" if alone else "numba_cpu")
        assert not alone or "is bfloat16 beside parameters of float64" in told.reason


def test_torch_s_classes_take_formats_too() -> None:
    optimizer = sr.optim.AdamW(make((4, 3)), state={"exp_avg": "bfloat16", "exp_avg_sq": "float32"}, clip=1.0)
    train(optimizer, 2)
    assert types(optimizer) == {"step": torch.float32, "exp_avg": torch.bfloat16, "exp_avg_sq": torch.float32}
    told = sr.explain(optimizer)
    assert told.state_bytes_per_parameter == 6
    assert told.storage == "float32; `exp_avg` in bfloat16, rounded stochastically"
    narrow = sr.explain(sr.optim.AdamW(make((2,), dtype=torch.bfloat16), state={"exp_avg": "bfloat16"}))
    assert narrow.storage == "bfloat16, rounded to the nearest, `exp_avg` stochastically"


@pytest.mark.parametrize(
    ("asked", "told", "fix"),
    [
        ({"fats": "bfloat16"}, "names 'fats'", "'fast', 'slow'"),
        ({"k": "bfloat16"}, "names 'k'", "'fast', 'slow'"),
        ({"fast": "int4"}, "the state of 'fast' is 'int4'", "'bfloat16'"),
        ("int4", "state is 'int4'", "'bfloat16'"),
        (16, "state is 16", "'bfloat16'"),
    ],
    ids=str,
)
def test_a_format_that_cannot_be_asked_for_is_refused(asked: Any, told: str, fix: str) -> None:
    with pytest.raises(HyperparameterError, match=told) as caught:
        own.optimizer(make((2,)), state=asked)
    assert fix in caught.value.fix
    with pytest.raises(HyperparameterError, match="no slot of `gd`"):
        board.gd.optimizer(make((2,)), state={"m": "bfloat16"})


def test_a_format_may_be_that_of_a_slot_which_only_another_rule_of_a_class_has() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    muon = sr.optim.Muon(model, backend="eager", state={"exp_avg": "bfloat16", "momentum_buffer": "bfloat16"})
    adafactor = sr.optim.Adafactor([*model.parameters()], backend="eager", state={"variance": "bfloat16"})
    for optimizer, bias, name in ((muon, model[0].bias, "exp_avg"), (adafactor, model[0].bias, "variance")):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        assert optimizer.state[bias][name].dtype is torch.bfloat16
    assert muon.state[model[0].weight]["momentum_buffer"].dtype is torch.bfloat16
    with pytest.raises(HyperparameterError, match="names 'variants', which is no slot"):
        sr.optim.Adafactor([*model.parameters()], state={"variants": "bfloat16"})


def test_a_slot_of_bfloat16_follows_changes_below_half_of_its_last_bit() -> None:
    """β₂ = 0.999 from 1 towards 0: to the nearest, no step would ever move it."""
    parameter = torch.nn.Parameter(torch.zeros(4096))
    optimizer = sr.optim.Adam([parameter], lr=0.0, state="bfloat16")
    parameter.grad = torch.ones(4096)
    optimizer.step()
    optimizer.state[parameter]["exp_avg_sq"].fill_(1.0)
    parameter.grad.zero_()
    for _ in range(100):
        optimizer.step()
    assert float(optimizer.state[parameter]["exp_avg_sq"].float().mean()) == pytest.approx(0.999**100, abs=2e-3)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "8bit", "8bit-all", None])
@pytest.mark.parametrize("saved", ["bfloat16", "8bit", "8bit-all"])
def test_a_checkpoint_is_loaded_in_the_format_that_is_asked_for_and_goes_on_bit_for_bit(saved: str, kind: Any) -> None:
    """Without any it is kept as it was, 8 bits as numbers; with weights_only: tensors and numbers are all there is."""
    torch.manual_seed(0)
    parameters = make((64, 65), (7,))
    optimizer = own.optimizer(parameters, state=saved, seed=3, backend="eager")
    train(optimizer, 3)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    again = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
    other = own.optimizer(again, state=kind, seed=3, backend="eager")
    other.load_state_dict(torch.load(file, weights_only=True))
    told = dict.fromkeys(("8bit", "8bit-all"), torch.int8) | {"float32": torch.float32, "bfloat16": torch.bfloat16}
    small = other.state[again[1]]["fast"].dtype  # of 7 numbers, which one word means and the other does not
    assert (
        small == told["float32" if (kind or saved) == "8bit" or (saved, kind) == ("8bit-all", None) else kind or saved]
    )
    assert types(other)["fast"] == told[kind or (saved if saved == "bfloat16" else "float32")]
    one, its = (made.state_dict(format="float32")["state"] for made in (optimizer, other))
    rtol = {"8bit": 1 / 16, "8bit-all": 1 / 16, "bfloat16": 1 / 256}.get(kind, 0.0) * (kind != saved)
    for index, name in product(one, ("fast", "slow", "k")):
        torch.testing.assert_close(its[index][name], one[index][name], rtol=rtol, atol=1e-4 * rtol)
    assert not any("scale" in name for state in (*one.values(), *its.values()) for name in state)
    if kind == saved:
        assert bits(optimizer) == bits(other)
        for stepped in (optimizer, other):
            train(stepped, 3, seed=1)
        assert bits(optimizer) == bits(other)


@pytest.mark.parametrize("form", ["bfloat16", "8bit"])
def test_torch_s_float32_state_is_loaded_and_given_back(form: str) -> None:
    torch.manual_seed(0)
    theirs, ours = make((64, 65)), make((64, 65))
    plain = torch.optim.AdamW(theirs)
    train(plain, 3)
    optimizer = sr.optim.AdamW(ours, state=form, backend="eager")
    optimizer.load_state_dict(plain.state_dict())
    assert optimizer.state[ours[0]]["exp_avg"].element_size() == (2 if form == "bfloat16" else 1)
    train(optimizer, 1)
    told = optimizer.state_dict(format="float32")
    plain.load_state_dict(told)
    assert {name: value.dtype for name, value in plain.state[theirs[0]].items()} == dict.fromkeys(
        ("step", "exp_avg", "exp_avg_sq"), torch.float32
    )
    train(plain, 1)
    with pytest.raises(StateError, match="no format 'int8'"):
        optimizer.state_dict(format="int8")


def test_what_is_no_state_of_8_bits_is_refused() -> None:
    """Codes without exponents, of another shape, or beside a DTensor; in a checkpoint, and put into the state."""
    parameters = make((64, 65))
    optimizer = own.optimizer(parameters, state="8bit", backend="eager")
    train(optimizer, 1)
    saved = optimizer.state_dict()
    saved["state"][0].pop("fast_scale")
    with pytest.raises(StateError, match="'fast_scale' beside it is not uint8 of shape \\(64, 3\\)"):
        optimizer.load_state_dict(saved)
    optimizer.state[parameters[0]]["fast_scale"] = torch.zeros(64, 2, dtype=torch.uint8)
    with pytest.raises(ParameterError, match="'fast_scale' beside it"):
        train(optimizer, 1)


# Eight bits -------------------------------------------------------------------------------------------

ANYWHERE = [None, "eager"]


@rule
def exactly(theta, g, m, s=slot(low=0), *, lr=0.125, beta=0.5):
    """Float32 arithmetic is exact; the second slot is of 0 and squares of few bits."""
    m = beta * m + g
    return theta - lr * m, m, 0.25 * s + 0.25 * g**2


def of_few_bits(*shape: int) -> torch.Tensor:
    return torch.randint(-8, 9, shape) / 8.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", ANYWHERE)
@pytest.mark.parametrize("form", ["8bit", "8bit-all"])
def test_8_bits_hold_what_the_definitions_say(form: str, backend: Any, dtype: torch.dtype) -> None:
    """Codes and exponents bit for bit: rows with a tail, short ones, long ones, of three dimensions; small tensors.

    Under the word for all, what has one dimension, or none, is one row, however short, and of several chunks.
    """
    torch.manual_seed(1)
    shapes = [
        (9, 600),
        (700, 7),
        (3, 1500),
        (8, 16, 40),
        (64, 63),
        (5000,),
        (4096, 1),
        (40001,),
        (3, 3),
        (1,),
        (),
        (0,),
    ]
    parameters = [torch.nn.Parameter(of_few_bits(*shape).to(dtype)) for shape in shapes]
    optimizer = exactly.optimizer(parameters, state=form, seed=2**40, backend=backend)
    truth = StoredTruth(optimizer)
    for step in range(3):
        for place, parameter in enumerate(parameters):
            parameter.grad = of_few_bits(*parameter.shape).to(dtype) if (step + place) % 3 else None
        truth.step()
        optimizer.step()
        truth.agrees()
    held = optimizer.state[parameters[0]]
    assert {name: (value.dtype, tuple(value.shape)) for name, value in held.items() if name != "step"} == {
        "m": (torch.int8, (9, 600)), "m_scale": (torch.uint8, (9, 19)),
        "s": (torch.uint8, (9, 600)), "s_scale": (torch.uint8, (9, 19)),
    }  # fmt: skip
    small = [place for place, shape in enumerate(shapes) if len(shape) < 2 or torch.Size(shape).numel() < 4096]
    assert {optimizer.state[parameters[place]]["m"].dtype for place in small[:-1]} == {
        torch.float32 if form == "8bit" else torch.int8
    }
    assert optimizer.state[parameters[-1]]["m"].dtype is torch.float32  # which is empty
    told = [tuple(optimizer.state[p]["s_scale"].shape) for p in parameters[7:11]] if form == "8bit-all" else []
    assert told == [(1, 1251), (3, 1), (1, 1), (1, 1)][: len(told)]


def test_one_zero_gradient_does_not_move_a_parameter_by_m_over_epsilon() -> None:
    """A small gradient beside a large one, then none: were its second moment coded as 0, θ would move by m/ε, 1e5."""
    wide, narrow = (torch.nn.Parameter(torch.zeros(64, 512)) for _ in range(2))
    steps: list[float] = []
    for parameter, state in ((wide, None), (narrow, "8bit")):
        optimizer = sr.optim.Adam([parameter], lr=1e-3, state=state, backend="eager")
        parameter.grad = torch.full((64, 512), 1e-3)
        parameter.grad[:, ::40] = 1.0
        for _ in range(10):
            optimizer.step()
        before = parameter.detach().clone()
        parameter.grad.zero_()
        optimizer.step()
        steps.append(float((parameter.detach() - before).abs().max()))
    assert steps[1] < 3 * steps[0] < 3e-3


def test_8_bits_follow_beta_2_of_a_thousandth_a_step() -> None:
    """To the nearest, 0.999 would never move a code of 4 bits of mantissa."""
    parameter = torch.nn.Parameter(torch.zeros(64, 64))
    optimizer = sr.optim.Adam([parameter], lr=0.0, state="8bit", backend="eager")
    parameter.grad = torch.ones(64, 64)
    optimizer.step()
    for _ in range(100):
        optimizer.step()
    second = optimizer.state_dict(format="float32")["state"][0]["exp_avg_sq"]
    assert float(second.mean()) == pytest.approx(1 - 0.999**101, rel=0.03)


# Bytes ------------------------------------------------------------------------------------------------


def kept_bytes(optimizer: Any) -> float:
    """Return the bytes of state a number, as the storages have them, but for what is one number a tensor."""
    parameters = optimizer.param_groups[0]["params"]
    storages = [value.untyped_storage() for p in parameters for value in optimizer.state[p].values() if value.ndim]
    return sum(storage.nbytes() for storage in storages) / sum(p.numel() for p in parameters)


def test_adam_takes_8_then_4_then_2_07_bytes_and_a_step_of_adamw_7_2_with_gradients() -> None:
    """A matrix and its bias, which stays float32."""
    held: list[float] = []
    for form in ("float32", "bfloat16", "8bit"):
        optimizer = sr.optim.Adam(make((512, 512), (512,)), state=form, backend="eager")
        train(optimizer, 1)
        held.append(kept_bytes(optimizer))
        nominal = sr.explain(optimizer).state_bytes_per_parameter
        assert nominal == pytest.approx(held[-1], rel=0.01)
    assert held[:2] == [8, 4]
    assert held[2] < 2.13
    parameters = make((512, 512), (512,), dtype=torch.bfloat16)
    optimizer = sr.optim.AdamW(parameters, rounding="compensated8", state="8bit", backend="eager")
    train(optimizer, 1)
    own = sum(p.nbytes + p.grad.nbytes for p in parameters if p.grad is not None) / sum(p.numel() for p in parameters)
    assert own + kept_bytes(optimizer) < 7.2
    told = sr.explain(optimizer)
    assert told.state_bytes_per_parameter == 1 + 2 * (1 + 1 / 32)
    assert told.storage == ("bfloat16 and 8 more bits in `remainder`, together 24 bits; "
                            "`exp_avg`, `exp_avg_sq` in 8 bits, rounded stochastically")  # fmt: skip


def test_24_bits_follow_float32_and_are_loaded_from_32_and_into_them() -> None:
    torch.manual_seed(0)
    (narrow,), (wide,) = make((40, 3), dtype=torch.bfloat16), make((1,))
    wide.data = narrow.detach().float()
    one = sr.optim.SGD([narrow], lr=1e-3, rounding="compensated8", backend="eager")
    other = sr.optim.SGD([wide], lr=1e-3, backend="eager")
    for _ in range(50):
        narrow.grad = torch.ones_like(narrow) / 8
        wide.grad = torch.ones_like(wide) / 8
        one.step()
        other.step()
    found = torch.from_numpy(master(narrow, one.state[narrow]["remainder"]))
    torch.testing.assert_close(found, wide.detach(), rtol=0, atol=5e-4)  # 16 bits alone are off by 6e-3
    assert one.state[narrow]["remainder"].dtype is torch.int8
    for rounding, kind in (("compensated", torch.int16), ("compensated8", torch.int8)):
        again = torch.nn.Parameter(narrow.detach().clone())
        loaded = sr.optim.SGD([again], lr=0.0, rounding=rounding, backend="eager")
        loaded.load_state_dict(one.state_dict())
        loaded.param_groups[0]["lr"] = 0.0
        again.grad = torch.ones_like(again)
        loaded.step()
        assert loaded.state[again]["remainder"].dtype is kind
        assert torch.equal(torch.from_numpy(master(again, loaded.state[again]["remainder"])), found)
