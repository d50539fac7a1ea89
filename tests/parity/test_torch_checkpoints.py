"""State dictionaries between torch.optim and us, both ways, and copies of our classes."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from cases import CLASSES, RULES, Case, apart, fill, make, make_twin, named

import steprule.optim as ours
from steprule.errors import StateError

pytestmark = [pytest.mark.cpu, pytest.mark.parity]

both = pytest.mark.parametrize("default_dtype", [torch.float32, torch.float64], ids=str, indirect=True)
every_rule = pytest.mark.parametrize("case", RULES, ids=named)


def steps(side: tuple[Any, Any], first: int, last: int) -> None:
    found, optimizer = side
    for step in range(first, last):
        fill(found, step)
        optimizer.step()


def through_a_file(saved: Any, *, weights_only: bool = True) -> Any:
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=weights_only)


def values(side: tuple[Any, Any]) -> list[torch.Tensor]:
    found, optimizer = side
    state = [optimizer.state[p][key] for p in found for key in sorted(optimizer.state.get(p, {}))]
    return [tensor.detach().clone() for tensor in [*found, *state]]


def identical(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(a, b, strict=True))


def forms(saved: dict[str, Any]) -> Any:
    return {
        index: {key: (value.dtype, value.shape, value.device) for key, value in state.items()}
        for index, state in saved["state"].items()
    }


@pytest.mark.hostile("S3")
@both
@every_rule
def test_a_checkpoint_of_torch_goes_on_in_ours(case: Case, default_dtype: torch.dtype, deviations: Any) -> None:
    twin = make_twin(case, default_dtype)
    steps(twin, 0, 10)
    found = copy.deepcopy(twin[0])
    own = getattr(ours, case.name)([{"params": found[:5]}, {"params": found[5:]}])
    own.load_state_dict(through_a_file(twin[1].state_dict()))
    assert own.param_groups[0]["lr"] == twin[1].param_groups[0]["lr"]
    steps((found, own), 10, 20)
    steps(twin, 10, 20)
    deviations(case.name, f"from a torch checkpoint, {case.told}", default_dtype, apart(own, twin[1]))


@pytest.mark.hostile("S3")
@both
@every_rule
def test_a_checkpoint_of_ours_goes_on_in_torch(case: Case, default_dtype: torch.dtype, deviations: Any) -> None:
    """Also: keys, dtypes and shapes of the state, and the keys of the groups, are torch's."""
    own, reference = make(case, default_dtype), make_twin(case, default_dtype)
    steps(own, 0, 10)
    steps(reference, 0, 10)
    saved, wanted = own[1].state_dict(), reference[1].state_dict()
    assert set(saved) == set(wanted)
    assert forms(saved) == forms(wanted)
    assert [set(group) for group in saved["param_groups"]] == [set(group) for group in wanted["param_groups"]]
    found = copy.deepcopy(own[0])
    twin = getattr(torch.optim, case.name)([{"params": found[:5]}, {"params": found[5:]}])
    twin.load_state_dict(through_a_file(saved))
    for group in twin.param_groups:
        group["foreach"] = False
    steps(own, 10, 20)
    steps((found, twin), 10, 20)
    deviations(case.name, f"a checkpoint to torch, {case.told}", default_dtype, apart(own[1], twin))


@pytest.mark.hostile("P5")
@every_rule
@pytest.mark.parametrize("how", ["pickle", "deepcopy", "torch.save", "state_dict"])
def test_a_copy_goes_on_bit_for_bit(case: Case, how: str) -> None:
    own = make(case, torch.float32)
    steps(own, 0, 10)
    if how == "pickle":
        other = pickle.loads(pickle.dumps(own))  # noqa: S301
    elif how == "deepcopy":
        other = copy.deepcopy(own)
    elif how == "torch.save":
        other = through_a_file(own, weights_only=False)
    else:
        other = make(case, torch.float32)
        for p, q in zip(other[0], own[0], strict=True):
            p.data.copy_(q.detach())
        other[1].load_state_dict(through_a_file(own[1].state_dict()))
    before = values(own)
    assert identical(values(other), before)
    steps(other, 10, 16)
    assert identical(values(own), before)
    steps(own, 10, 16)
    assert identical(values(other), values(own))


@pytest.mark.parametrize("name", [name for name in CLASSES if name != "SGD"])
def test_float32_moments_under_bfloat16_parameters_stay_float32(name: str) -> None:
    """torch casts them to bfloat16 when loading; here training goes on as if nothing had happened."""
    wide = make(Case(name), torch.float32)
    steps(wide, 0, 10)
    own = make(Case(name), torch.bfloat16)
    own[1].load_state_dict(through_a_file(wide[1].state_dict()))
    for p, q in zip(own[0], wide[0], strict=True):
        for key, value in wide[1].state[q].items():
            held = own[1].state[p][key]
            assert held.dtype == torch.float32
            assert torch.equal(held, value)
    steps(own, 10, 12)
    kept = [value for p in own[0] for value in own[1].state[p].values()]
    assert {value.dtype for value in kept} == {torch.float32}
    assert all(torch.isfinite(value).all() for value in kept)


# Refused -----------------------------------------------------------------------------------------------------


def model(name: str) -> tuple[list[torch.nn.Parameter], Any]:
    found = [torch.nn.Parameter(torch.ones(5)), torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2))]
    options = {"momentum": 0.9} if name == "SGD" else {}
    named_ones = [("first", found[0]), ("second", found[1])]
    optimizer = getattr(ours, name)([{"params": named_ones}, {"params": [("third", found[2])]}], **options)
    for step in range(3):
        for p in found:
            p.grad = torch.full_like(p, 0.1 * (step + 1))
        optimizer.step()
    return found, optimizer


def largest(saved: dict[str, Any], index: int) -> str:
    return next(key for key, value in saved["state"][index].items() if value.numel() > 1)


def wrong_shape(saved: dict[str, Any]) -> None:
    saved["state"][1][largest(saved, 1)] = torch.zeros(4)


def swapped(saved: dict[str, Any]) -> None:
    state = saved["state"]
    state[0], state[1] = state[1], state[0]


def missing_key(saved: dict[str, Any]) -> None:
    del saved["state"][1][largest(saved, 1)]


def extra_group(saved: dict[str, Any]) -> None:
    saved["param_groups"].append({**saved["param_groups"][1], "params": [3]})


@pytest.mark.hostile("S1", "S3")
@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize(
    ("spoil", "told"),
    [(wrong_shape, "`second`"), (swapped, "`first`"), (missing_key, "`second`"), (extra_group, r"\[2, 1, 1\]")],
)
def test_state_that_does_not_fit_is_refused_by_name_and_changes_nothing(name: str, spoil: Any, told: str) -> None:
    if name == "SGD" and spoil is missing_key:
        return  # a momentum buffer is all the state there is: without it, the parameter was never stepped
    side = model(name)
    saved = copy.deepcopy(side[1].state_dict())
    spoil(saved)
    saved["param_groups"][0]["lr"] = 0.77
    before, lr = values(side), side[1].param_groups[0]["lr"]
    with pytest.raises(StateError, match=told):
        side[1].load_state_dict(saved)
    assert identical(values(side), before)
    assert side[1].param_groups[0]["lr"] == lr
    for p in side[0]:
        p.grad = torch.ones_like(p)
    side[1].step()
    assert all(torch.isfinite(p).all() for p in side[0])


@pytest.mark.parametrize("name", CLASSES)
def test_a_checkpoint_made_before_the_first_step_loads_both_ways(name: str) -> None:
    own, twin = make(Case(name), torch.float32), make_twin(Case(name), torch.float32)
    fresh = twin[1].state_dict()
    assert forms(own[1].state_dict()) == forms(fresh)
    twin[1].load_state_dict(own[1].state_dict())
    own[1].load_state_dict(fresh)
    steps(own, 0, 3)
    steps(twin, 0, 3)
    assert apart(own[1], twin[1]) <= 1e-5
