"""Muon of a whole model: matrices by Muon, the rest by AdamW, in one optimiser with one learning rate."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import steprule as sr
from steprule.errors import HyperparameterError, ParameterError, StateError
from steprule.zoo import matrices
from steprule.zoo.adam import adam

pytestmark = pytest.mark.null

ONE = {"lr": 0.01, "weight_decay": 0.1, "backend": "eager"}


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4))


def train(own: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> list[torch.Tensor]:
    for step in range(first, last):
        torch.manual_seed(100 + step)
        optimizer.zero_grad()
        own(torch.randn(4, 3, 4, 4)).square().sum().backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in own.parameters()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, a, b))


def test_matrices_are_stepped_by_muon_and_the_rest_by_adamw_with_one_learning_rate() -> None:
    """Beside one optimiser for each; a convolution is a matrix, its filters its rows."""
    ours, theirs = model(), model()
    one = sr.optim.Muon(ours, **ONE)
    assert [route.rule for route in one.routes.values()] == ["muon", "adam", "muon", "adam", "adam", "adam"]
    rest = [theirs[0].bias, theirs[3].bias, *theirs[5].parameters()]
    filters = nn.Parameter(theirs[0].weight.detach().reshape(8, 27).clone())
    muon = sr.optim.Muon([filters, theirs[3].weight], adjust_lr_fn="match_rms_adamw", **ONE)
    adam = sr.optim.AdamW(rest, **ONE)
    for step in range(3):
        train(ours, one, step, step + 1)
        theirs.zero_grad()
        torch.manual_seed(100 + step)
        theirs(torch.randn(4, 3, 4, 4)).square().sum().backward()
        filters.grad = theirs[0].weight.grad.reshape(8, 27)
        muon.step()
        adam.step()
        with torch.no_grad():
            theirs[0].weight.copy_(filters.reshape(8, 3, 3, 3))
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_normuon_and_adamw_each_have_their_betas_and_both_decay_cautiously_if_asked() -> None:
    ours, theirs = model(), model()
    one = sr.optim.NorMuon(ours, beta2=0.8, betas=(0.7, 0.6), cautious_decay=True, **ONE)
    decay = sr.cautious_weight_decay(weight_decay=ONE["weight_decay"])
    rules = {"hidden": sr.chain(matrices.normuon(beta2=0.8), decay),
             "rest": sr.chain(adam(beta1=0.7, beta2=0.6, eps=1e-8), decay)}  # fmt: skip
    other = sr.Optimizer(theirs, rules, lr=ONE["lr"], backend="eager")
    assert same(train(ours, one, 0, 3), train(theirs, other, 0, 3))
    assert {key for p in ours[0].parameters() for key in one.state[p]} == {
        "momentum_buffer", "second_momentum", "step", "exp_avg", "exp_avg_sq",
    }  # fmt: skip
    assert [route.rule for route in one.routes.values()][:2] == ["normuon", "adam"]


@pytest.mark.parametrize("twin", [None, copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])  # noqa: S301
def test_a_resumed_run_repeats_the_undisturbed_one(twin: Any) -> None:
    own = model()
    optimizer = sr.optim.Muon(own, clip=0.5, betas=(0.8, 0.9), **ONE)
    train(own, optimizer, 0, 2)
    if twin is None:
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        again = copy.deepcopy(own)
        resumed = sr.optim.Muon(again, clip=0.5, betas=(0.8, 0.9), **ONE)
        saved = torch.load(file, weights_only=True)
        assert [group["rule"] for group in saved["param_groups"]] == ["muon", "adam"]
        resumed.load_state_dict(saved)
    else:
        again, resumed = twin((own, optimizer))
    assert resumed.routes == optimizer.routes
    assert same(train(again, resumed, 2, 4), train(own, optimizer, 2, 4))


def test_a_checkpoint_of_other_rules_is_refused() -> None:
    own = [{"params": [nn.Parameter(torch.ones(2, 2)) for _ in range(count)]} for count in (2, 4)]
    with pytest.raises(StateError, match="saved group 1 was stepped by `adam`, and this optimiser's is by `muon`"):
        sr.optim.Muon(own).load_state_dict(sr.optim.Muon(model()).state_dict())


def test_groups_have_the_arguments_of_what_steps_them() -> None:
    matrix, vector = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(3))
    optimizer = sr.optim.Muon([{"params": [matrix]}, {"params": [vector], "rule": "adam", "lr": 0.5}], lr=0.1)
    assert optimizer.param_groups[0].keys() >= {"momentum", "nesterov", "ns_coefficients", "adjust_lr_fn"}
    assert optimizer.param_groups[0]["adjust_lr_fn"] is None
    assert {key: value for key, value in optimizer.param_groups[1].items() if key != "params"} == {
        "rule": "adam", "lr": 0.5, "weight_decay": 0.1, "betas": (0.9, 0.999), "eps": 1e-8,
        "cautious_decay": False,
    }  # fmt: skip
    for own, error, told in (
        ({"params": [vector], "rule": "sgd"}, HyperparameterError, "no rules of their own, but for 'adam'"),
        ({"params": [vector], "rule": "adam", "betas": (0.9, 1.0)}, HyperparameterError, "`beta2` of Muon"),
        ({"params": [nn.Parameter(torch.ones(3))]}, ParameterError, "Muon takes matrices"),
    ):
        with pytest.raises(error, match=told):
            optimizer.add_param_group(own)
    assert len(optimizer.param_groups) == 2
    with pytest.raises(HyperparameterError, match="`beta2` of Muon"):
        sr.optim.Muon([matrix], betas=(0.9, 1.0))
    assert copy.deepcopy(optimizer).routes == {}
    routed = sr.optim.Muon(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)))
    with pytest.raises(ParameterError, match="Muon takes matrices") as caught:
        routed.add_param_group({"params": [("late", late := nn.Parameter(torch.ones(3)))]})
    assert '"rule": "adam"' in caught.value.fix
    routed.add_param_group({"params": [("late", late)], "rule": "adam"})


def test_what_a_model_does_not_show_is_refused_and_said_in_one_line() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 4), nn.Linear(4, 8)

    with pytest.raises(ParameterError, match="the role of 1 parameter is not clear") as caught:
        sr.optim.Muon(Own())
    assert "roles={'b.weight': 'hidden'}" in caught.value.fix
    assert sr.optim.Muon(Own(), roles={"b.weight": "hidden"}).routes["b.weight"].rule == "muon"
    with pytest.raises(ParameterError, match="rules by role need the model"):
        sr.optim.Muon(Own().parameters(), roles={"b.weight": "hidden"})
