"""Several rules in one optimiser: a group has its own, and all that is of the optimiser is of all groups together."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch

import steprule as sr
from steprule import board, explain, rule
from steprule.errors import HyperparameterError, NonFiniteError, RuleError, StateError

pytestmark = pytest.mark.cpu


@rule
def heavy(weight, slope, buffer, *, lr=sr.hyper(0.1, low=0), beta=0.5):
    """Momentum whose author has other words for a parameter and its gradient."""
    buffer = beta * buffer + slope
    return weight - lr * buffer, buffer


@rule
def unit(w, d, *, lr=0.1):
    """A step of length η in every tensor: a rule with a norm of its own."""
    return w - lr * d / (sr.norm(d) + 1e-8)


def parameters(dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    sizes = ((3, 5), (40_000,), (7,), (2, 2))
    return [torch.nn.Parameter(torch.randn(size, generator=generator).to(dtype)) for size in sizes]


def values(held: list[torch.nn.Parameter]) -> list[list[float]]:
    return [parameter.detach().double().flatten().tolist() for parameter in held]


def fill(held: list[torch.nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for parameter in held:
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)


def groups(held: list[torch.nn.Parameter], *rules: Any) -> list[dict[str, Any]]:
    """Give the parameters to rules in turns, so that none has neighbours only."""
    own = [held[place :: len(rules)] for place in range(len(rules))]
    return [
        {"params": params, **({} if one is None else {"rule": one})} for params, one in zip(own, rules, strict=True)
    ]


def steps(optimizer: torch.optim.Optimizer, held: list[torch.nn.Parameter], first: int, last: int) -> None:
    for step in range(first, last):
        fill(held, step)
        optimizer.step()


@pytest.mark.parametrize(("backend", "dtype"), [(None, torch.float32), ("eager", torch.bfloat16)], ids=str)
def test_each_group_is_stepped_by_its_rule_as_by_an_optimiser_of_its_own(
    backend: str | None, dtype: torch.dtype
) -> None:
    ours, theirs = parameters(dtype), parameters(dtype)
    one = sr.Optimizer(groups(ours, heavy(beta=0.9), None), board.adam, lr=0.01, backend=backend)
    two = [heavy.optimizer(theirs[::2], lr=0.01, beta=0.9, backend=backend),
           board.adam.optimizer(theirs[1::2], lr=0.01, backend=backend)]  # fmt: skip
    for step in range(3):
        fill(ours, step)
        fill(theirs, step)
        one.step()
        for other in two:
            other.step()
    assert values(ours) == values(theirs)
    assert [sorted(one.state[p]) for p in ours] == [["buffer"], ["m", "s"]] * 2


def test_clipping_is_by_one_norm_whatever_the_rules_call_the_gradient() -> None:
    """The plan of `unit` reduces twice, so its norm of all tensors is not in its last but one pass."""
    ours, theirs = parameters(), parameters()
    one = sr.Optimizer(groups(ours, heavy, unit, None), board.sgd, lr=0.1, clip=1.0, watch=["gradient_norm"])
    fill(ours, 0)
    fill(theirs, 0)
    norm = torch.nn.utils.clip_grad_norm_(theirs, 1.0)
    one.step()
    for place, one_rule in enumerate((heavy, unit, board.sgd)):
        one_rule.optimizer(theirs[place::3], lr=0.1, backend="eager").step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    assert one.gauges()["gradient_norm"] == pytest.approx(float(norm), rel=1e-6)
    assert one.gauges()["clip_coefficient"] == pytest.approx(1 / float(norm), rel=1e-5)
    parts = [sr.explain(one).groups[place].passes[0]["reductions"] for place in range(3)]
    assert ["‖slope‖" in parts[0], "‖g‖" in parts[2]] == [True, True]


@pytest.mark.parametrize("culprit", range(3))
def test_a_gradient_that_is_not_finite_stops_all_rules(culprit: int) -> None:
    held = parameters()
    optimizer = sr.Optimizer(groups(held, heavy, unit, None), board.sgd, nonfinite="skip", backend="eager")
    before = values(held)
    fill(held, 0)
    held[culprit].grad[-1] = torch.nan
    optimizer.step()
    assert values(held) == before
    assert not optimizer.state
    assert optimizer.gauges()["skipped"] == 1
    optimizer.nonfinite = "raise"
    with pytest.raises(NonFiniteError, match=f"parameter 0 of group {culprit}"):
        optimizer.step()


def test_a_checkpoint_tells_rules_by_name_and_a_resumed_run_repeats_the_undisturbed_one() -> None:
    held, again = parameters(), parameters()
    undisturbed, resumed = (
        sr.Optimizer(groups(own, heavy(beta=0.9), None, unit), board.adam, lr=0.01, clip=1.0, backend="eager")
        for own in (held, again)
    )
    steps(undisturbed, held, 0, 2)
    file = io.BytesIO()
    torch.save(undisturbed.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    assert [group["rule"] for group in saved["param_groups"]] == ["heavy", "adam", "unit"]
    with torch.no_grad():
        for a, b in zip(again, held, strict=True):
            a.copy_(b)
    del saved["param_groups"][0]["beta"]
    resumed.load_state_dict(saved)
    assert ["rule" in group for group in resumed.param_groups] == [True, False, True]
    assert resumed.param_groups[0]["beta"] == 0.9
    for optimizer, own in ((undisturbed, held), (resumed, again)):
        steps(optimizer, own, 2, 4)
    assert values(held) == values(again)
    float32 = undisturbed.state_dict(format="float32")
    assert float32["param_groups"] == undisturbed.state_dict()["param_groups"]


def test_a_checkpoint_of_other_rules_is_refused_and_changes_nothing() -> None:
    held = parameters()
    saved = sr.Optimizer(groups(held, heavy, None), board.adam, lr=0.01).state_dict()
    other = sr.Optimizer(groups(held, unit, None), board.adam, lr=0.5)
    with pytest.raises(StateError, match="saved group 0 was stepped by `heavy`, and this optimiser's is by `unit`"):
        other.load_state_dict(saved)
    assert other.param_groups[0]["rule"] is unit
    assert other.param_groups[1]["lr"] == 0.5
    with pytest.raises(StateError, match="saved group 1 was stepped by `adam`"):
        sr.Optimizer(groups(held, heavy, None), board.sgd).load_state_dict(saved)
    with pytest.raises(StateError, match="saved group 0 was stepped by `heavy`"):
        sr.optim.SGD(groups(held, None, None)).load_state_dict(saved)
    alone = sr.Optimizer(groups(held, None, None), heavy)
    alone.load_state_dict(sr.Optimizer(groups(held, heavy, None), heavy).state_dict())
    assert [group.keys() for group in alone.param_groups] == [{"params", "lr", "beta"}] * 2


def test_a_hyperparameter_is_the_groups_the_configured_rules_the_constructors_or_the_declared_one() -> None:
    held = [[p] for p in parameters()]
    own = [
        {"params": held[0], "rule": heavy(lr=0.3), "lr": 0.4},
        {"params": held[1], "rule": heavy(lr=0.3)},
        {"params": held[2], "rule": heavy},
    ]
    optimizer = sr.Optimizer(own, board.adam(lr=0.7), lr=0.2, eps=1e-3)
    optimizer.add_param_group({"params": held[3]})
    assert [group["lr"] for group in optimizer.param_groups] == [0.4, 0.3, 0.2, 0.2]
    assert [group.get("eps") for group in optimizer.param_groups] == [None, None, None, 1e-3]
    assert [group.get("beta") for group in optimizer.param_groups] == [0.5, 0.5, 0.5, None]
    saved = pickle.loads(pickle.dumps(heavy))  # noqa: S301
    assert sr.Optimizer([{"params": held[0], "rule": saved}], board.adam, lr=0.2).param_groups[0]["lr"] == 0.2
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.2, 0.15, 0.1, 0.1]


@pytest.mark.parametrize(
    ("own", "error", "told"),
    [
        ({"rule": heavy, "lr": -1.0}, HyperparameterError, "`lr` of `heavy`, group 0"),
        ({"rule": heavy, "eps": 1e-3}, HyperparameterError, "`heavy` has no hyperparameter `eps`"),
        ({"rule": heavy, "bta": 0.3}, HyperparameterError, "`heavy` has no hyperparameter `bta`"),
        ({"rule": heavy, "weight_decay": 0.1}, HyperparameterError, "`heavy` has no weight decay"),
        ({"rule": "heavy"}, RuleError, "an optimiser needs a rule, not 'heavy'"),
        ({"rule": sr.clip_value}, RuleError, "`clip_value` is a transform"),
        ({"rule": board.nesterov(look_ahead="implicit")}, RuleError, "which no other rule of the optimiser waits for"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_group_is_held_to_its_own_rule_before_it_is_there(
    own: dict[str, Any], error: type[Exception], told: str
) -> None:
    held = parameters()
    with pytest.raises(error, match=told):
        sr.Optimizer([{"params": held[:1], **own}], board.adam, lr=0.1)
    optimizer = sr.Optimizer(held[1:], board.adam, lr=0.1)
    with pytest.raises(error, match=told.replace("group 0", "group 1")):
        optimizer.add_param_group({"params": held[:1], **own})
    assert len(optimizer.param_groups) == 1


def test_a_keyword_must_be_a_hyperparameter_of_some_rule() -> None:
    held = parameters()
    assert sr.Optimizer(groups(held, heavy, None), board.adam, beta=0.25).param_groups[0]["beta"] == 0.25
    with pytest.raises(HyperparameterError, match="`adam` or `heavy` has no hyperparameter `bta`") as caught:
        sr.Optimizer(groups(held, heavy, None), board.adam, bta=0.25)
    assert "did you mean beta" in caught.value.fix
    with pytest.raises(HyperparameterError, match="groups of AdamW have no rules of their own"):
        sr.optim.AdamW(groups(held, heavy, None))


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])  # noqa: S301
def test_copies_keep_the_rules_of_groups(twin: Callable[[Any], Any]) -> None:
    held = parameters()
    optimizer = sr.Optimizer(groups(held, board.nesterov, None), board.adam, lr=0.1, clip=1.0, backend="eager")
    steps(optimizer, held, 0, 2)
    other = twin(optimizer)
    theirs = [parameter for place in range(2) for parameter in other.param_groups[place]["params"]]
    mine = [*held[::2], *held[1::2]]
    with optimizer.at_iterate(), other.at_iterate():
        assert values(mine) == values(theirs)
    for own, which in ((mine, optimizer), (theirs, other)):
        steps(which, own, 2, 4)
    assert values(mine) == values(theirs)
    other.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))], "rule": heavy})
    assert other.param_groups[2]["lr"] == 0.1


@pytest.mark.parametrize("closed", [True, False])
def test_a_look_ahead_moves_the_parameters_of_its_own_rule_alone(closed: bool) -> None:
    """The loss is a sum over tensors, so that each gradient is at that tensor's own point."""
    ours, theirs = parameters(torch.float64), parameters(torch.float64)
    one = sr.Optimizer(groups(ours, board.nesterov, heavy), board.adam, lr=0.1, backend="eager")
    ahead = board.nesterov.optimizer(theirs[::2], lr=0.1, backend="eager")
    here = heavy.optimizer(theirs[1::2], lr=0.1, backend="eager")

    def closure(held: list[torch.nn.Parameter]) -> Callable[[], torch.Tensor]:
        def loss() -> torch.Tensor:
            for parameter in held:
                parameter.grad = None
            value = torch.stack([(parameter**4).sum() for parameter in held]).sum()
            value.backward()
            return value

        return loss

    for _ in range(3):
        for optimizer, held in ((one, ours), (ahead, theirs[::2]), (here, theirs[1::2])):
            if closed:
                optimizer.step(closure(held))
            else:
                closure(held)()
                optimizer.step()
    with one.at_iterate(), ahead.at_iterate():
        assert values(ours) == values(theirs)
    assert values(ours) == values(theirs)
    moved = [parameter.detach().clone() for parameter in ours]
    with one.at_iterate():
        assert [torch.equal(a, b) for a, b in zip(ours, moved, strict=True)] == [closed, True] * 2


def test_a_slot_of_any_rule_may_have_a_format() -> None:
    held = [torch.nn.Parameter(torch.ones(64, 64)) for _ in range(4)]
    state: Any = {"buffer": "bfloat16", "m": "8bit"}
    optimizer = sr.Optimizer(groups(held, heavy, None), board.adam, lr=0.1, state=state, backend="eager")
    steps(optimizer, held, 0, 2)
    assert optimizer.state[held[0]]["buffer"].dtype == torch.bfloat16
    assert optimizer.state[held[1]]["m"].dtype == torch.int8
    assert optimizer.state[held[1]]["s"].dtype == torch.float32
    with pytest.raises(HyperparameterError, match="'v', which is no slot of `adam` or `heavy`"):
        sr.Optimizer(groups(held, heavy, None), board.adam, state={"v": "bfloat16"})


def test_another_clipping_is_put_before_every_rule() -> None:
    held = parameters()
    optimizer = sr.Optimizer(groups(held, heavy, None), board.adam, lr=0.1, clip=2.0, backend="eager")
    optimizer.clip = sr.clip_value(limit=0.5)
    assert [group.keys() for group in optimizer.param_groups] == [
        {"params", "rule", "lr", "beta", "limit"}, {"params", "lr", "beta1", "beta2", "eps", "limit"}
    ]  # fmt: skip
    steps(optimizer, held, 0, 1)
    assert float(optimizer.state[held[0]]["buffer"].abs().max()) == 0.5
    optimizer.clip = None
    assert [group.keys() for group in optimizer.param_groups] == [
        {"params", "rule", "lr", "beta"}, {"params", "lr", "beta1", "beta2", "eps"}
    ]  # fmt: skip


def test_gauges_are_of_all_rules_and_explain_names_each() -> None:
    held = parameters()
    before = [parameter.detach().clone() for parameter in held]
    optimizer = sr.Optimizer(
        groups(held, heavy, unit, None), board.adam, lr=0.1, watch=["update_norm"], backend="eager"
    )
    steps(optimizer, held, 0, 1)
    moved = torch.cat([(a.detach() - b).flatten() for a, b in zip(held, before, strict=True)])
    assert optimizer.gauges()["update_norm"] == pytest.approx(float(moved.norm()), rel=1e-5)
    told = explain(optimizer)
    assert [one.name for one in told.groups] == ["heavy", "unit", "adam"]
    assert "unit, group 1: 1 tensor, 40,000 numbers" in str(told)


def test_rules_that_differ_in_numbers_alone_share_a_kernel_and_a_new_rule_in_a_group_is_followed() -> None:
    held = parameters()
    chained = sr.chain(sr.weight_decay(0.1), board.sgd)
    own = groups(held, heavy(beta=0.9), heavy(beta=0.1), chained, sr.chain(sr.weight_decay(0.2), board.sgd))
    optimizer = sr.Optimizer(own, heavy, lr=0.1, backend="eager")
    steps(optimizer, held, 0, 1)
    assert len(optimizer._binding.buckets) == 2
    optimizer.param_groups[0]["rule"] = board.sgd
    before = held[0].detach().clone()
    steps(optimizer, held, 1, 2)
    torch.testing.assert_close(held[0].detach(), before - 0.1 * held[0].grad)
    optimizer.param_groups[0]["rule"] = None
    steps(optimizer, held, 2, 3)
    assert len(optimizer._binding.buckets) == 2


def test_a_reduction_that_two_rules_write_is_over_the_tensors_of_both() -> None:
    """The factors of a product have no order in a formula, but one in a graph, which depends on names."""

    @rule
    def scaled(theta, g, *, lr=1.0):
        return theta - lr * g / sr.global_sum(theta * g)

    @rule
    def likewise(W, dw, *, lr=1.0):
        return W - lr * dw / sr.global_sum(dw * W)

    held = parameters(torch.float64)
    own = groups(held, scaled, likewise, None)
    optimizer = sr.Optimizer(own, board.sgd, lr=1.0, backend="eager")
    fill(held, 0)
    before = [parameter.detach().clone() for parameter in held]
    total = sum(float((before[place] * held[place].grad).sum()) for place in (0, 1, 3))
    optimizer.step()
    for place, factor in enumerate((1 / total, 1 / total, 1.0, 1 / total)):
        torch.testing.assert_close(held[place].detach(), before[place] - factor * held[place].grad)
