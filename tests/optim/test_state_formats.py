"""State in other formats than its parameter's: what is asked for, of which slots, and how it is kept and loaded."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from truth import bits, make

import steprule as sr
from steprule import board, rule, slot
from steprule.errors import HyperparameterError

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


@pytest.mark.parametrize("kind", ["float32", "bfloat16", None])
def test_a_checkpoint_is_loaded_in_the_format_that_is_asked_for_and_goes_on_bit_for_bit(kind: Any) -> None:
    """Without any it is kept as it was saved; with weights_only, as all that is saved is tensors and numbers."""
    torch.manual_seed(0)
    parameters = make((5, 3), (7,))
    optimizer = own.optimizer(parameters, state="bfloat16", seed=3)
    train(optimizer, 3)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    again = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
    other = own.optimizer(again, state=kind, seed=3)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert types(other)["fast"] == getattr(torch, kind or "bfloat16")
    for one, its in zip(parameters, again, strict=True):
        assert torch.equal(optimizer.state[one]["fast"].float(), other.state[its]["fast"].float())
    if kind == "bfloat16":
        for stepped in (optimizer, other):
            train(stepped, 3, seed=1)
        assert bits(optimizer) == bits(other)


def test_torch_s_float32_state_is_loaded_into_bfloat16() -> None:
    torch.manual_seed(0)
    theirs, ours = make((5, 3)), make((5, 3))
    plain = torch.optim.AdamW(theirs)
    train(plain, 3)
    optimizer = sr.optim.AdamW(ours, state="bfloat16")
    optimizer.load_state_dict(plain.state_dict())
    for name in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(optimizer.state[ours[0]][name], plain.state[theirs[0]][name].bfloat16())
    train(optimizer, 1)
