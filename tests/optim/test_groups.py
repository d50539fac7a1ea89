"""Param groups: asked for what the constructor is asked for, and free for what trainers note in them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from truth import bits

import steprule as sr
from steprule import board, rule
from steprule.errors import HyperparameterError

pytestmark = pytest.mark.null

CLASSES = {
    name: getattr(sr.optim, name)
    for name in sr.optim.__all__
    if isinstance(getattr(sr.optim, name), type) and issubclass(getattr(sr.optim, name), torch.optim.Optimizer)
    and name != "Optimizer"
}  # fmt: skip
RULES = {f"board.{name}": getattr(board, name) for name in ("gd", "sgd", "momentum", "adagrad", "rmsprop", "adam")}


def parameters() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.ones(2, 1))]


def make(name: str, groups: Any, **options: Any) -> Any:
    if name in CLASSES:
        return CLASSES[name](groups, **options)
    return sr.Optimizer(groups, RULES[name], **{"lr": 0.1, **options})


MISSPELT: list[tuple[str, dict[str, Any], str]] = [
    ("board.adam", {"beat1": 0.5}, "beta1"),
    ("board.adam", {"betas": (0.5, 0.9)}, "beta1, beta2"),
    ("board.adam", {"beta": 0.5}, "beta"),
    ("board.adam", {"Beta1": 0.5}, "beta1"),
    ("board.adam", {"beta_2": 0.5}, "beta2"),
    ("board.adam", {"epsilon": 1e-3}, "eps"),
    ("board.adam", {"learning_rate": 1e-3}, "lr"),
    ("board.adam", {"LR": 1e-3}, "lr"),
    ("board.momentum", {"momentum": 0.5}, "lr, beta"),
    ("board.momentum", {"betas": (0.5, 0.5)}, "beta"),
    ("board.rmsprop", {"alpha": 0.5}, "lr, beta"),
    ("board.rmsprop", {"rho": 0.5}, "lr, beta"),
    ("board.sgd", {"momentum": 0.1}, "lr"),
    ("board.sgd", {"nesterov": True}, "lr"),
    ("board.sgd", {"maximize": True}, "lr"),
    ("AdamW", {"beta1": 0.5}, "betas"),
    ("AdamW", {"beta2": 0.5}, "betas"),
    ("AdamW", {"beta": 0.5}, "betas"),
    ("AdamW", {"Betas": (0.5, 0.5)}, "betas"),
    ("AdamW", {"weight_deacy": 0.5}, "weight_decay"),
    ("AdamW", {"wd": 0.5}, "weight_decay"),
    ("AdamW", {"amsgrd": True}, "amsgrad"),
    ("SGD", {"momentun": 0.5}, "momentum"),
    ("SGD", {"nestrov": True}, "nesterov"),
    ("Rprop", {"eta_minus": 0.4}, "etas"),
    ("Rprop", {"largest": 0.4}, "step_sizes"),
    ("ASGD", {"lambda": 0.4}, "lambd"),
    ("Adan", {"beta3": 0.4}, "betas"),
    ("Lion", {"learning_rate": 0.4}, "lr"),
]


@pytest.mark.parametrize(("name", "own", "meant"), MISSPELT, ids=lambda value: str(value))
def test_a_key_that_looks_like_a_hyperparameter_is_refused(name: str, own: dict[str, Any], meant: str) -> None:
    """By the constructor and by `add_param_group`, each before the group is there."""
    (key,) = own
    optimizer = make(name, parameters())
    for action, which in (
        (lambda: make(name, [{"params": parameters(), **own}]), 0),
        (lambda: make(name, [{"params": parameters()}, {"params": parameters(), **own}]), 1),
        (lambda: optimizer.add_param_group({"params": parameters(), **own}), 1),
    ):
        with pytest.raises(HyperparameterError, match=f"has no hyperparameter `{key}`") as caught:
            action()
        assert f"group {which}: {key}=" in caught.value.where
        assert meant in caught.value.fix
    assert len(optimizer.param_groups) == 1


OF_TRAINERS: dict[str, Any] = {
    # torch's schedulers and averaging
    "initial_lr": 0.1, "max_lr": 0.2, "min_lr": 0.0, "base_lr": 0.1, "swa_lr": 0.1, "base_momentum": 0.8,
    "max_momentum": 0.9, "initial_momentum": 0.9, "last_epoch": 3, "lr_lambda": None,
    # torch's own flags, off
    "foreach": None, "fused": False, "capturable": False, "differentiable": False, "weight_decay": 0.0,
    # timm, transformers, DINO, BEiT, ViT fine-tuning, torchvision and others
    "lr_scale": 0.5, "name": "head", "group_name": "layer_0_decay", "layer_id": 3, "layer_decay": 0.7, "tag": "a",
    "lr_mult": 2.0, "lr_multiplier": 2.0, "wd_mult": 1.0, "wd_multiplier": 0.5, "weight_decay_mult": 0.0, "decay": True,
    "is_last_layer": True, "apply_wd": True, "no_decay": False, "warmup_steps": 10, "fix_lr": True, "id": 1,
    "type": "w", "is_expert": False, "moe": True, "param_type": "bias", "trainable": True, "key": "k", "step": 3,
    "rank": 0, 5: "five",
}  # fmt: skip


@pytest.mark.parametrize("name", [*CLASSES, *RULES])
def test_keys_that_trainers_add_stay(name: str) -> None:
    own = {key: value for key, value in OF_TRAINERS.items() if name != "Rprop" or key != "weight_decay"}
    optimizer = make(name, [{"params": parameters(), **own}], backend="eager")
    optimizer.add_param_group({"params": parameters(), **own})
    for group in optimizer.param_groups:
        assert {key: group[key] for key in own} == own
        group["params"][0].grad = torch.ones(2, 1)
    optimizer.step(**{"loss": 1.0} if name == "Polyak" else {})
    again = make(name, [{"params": parameters()}, {"params": parameters()}], backend="eager")
    again.load_state_dict(optimizer.state_dict())
    assert {key: again.param_groups[1][key] for key in own} == own


def test_groups_that_torch_has_filled_in_serve_a_rule_too() -> None:
    """torch.optim writes its defaults into the dicts that it is given."""
    groups = [{"params": parameters(), "lr": 0.5}]
    torch.optim.SGD(groups)
    assert groups[0]["momentum"] == 0
    assert sr.Optimizer(groups, board.sgd).param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("option", ["clip", "nonfinite", "backend", "compensated", "capturable"])
@pytest.mark.parametrize("name", ["AdamW", "board.adam"])
def test_an_option_of_the_optimiser_is_none_of_a_group(name: str, option: str) -> None:
    value = {"clip": 1.0, "nonfinite": "skip", "backend": "eager"}.get(option, True)
    with pytest.raises(HyperparameterError, match=f"`{option}` is an option of the whole optimiser") as caught:
        make(name, [{"params": parameters(), option: value}])
    assert f"{option}=..." in caught.value.fix


AS_CONSTRUCTED: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"momentum": -0.1}),
    ("SGD", {"nesterov": True}),
    ("SGD", {"nesterov": True, "momentum": 0.9, "dampening": 0.1}),
    ("SGD", {"nesterov": True, "momentum": "0.9"}),
    ("RMSprop", {"momentum": -0.1}),
    ("Adagrad", {"initial_accumulator_value": -0.1}),
    ("Adagrad", {"initial_accumulator_value": "much"}),
    ("Yogi", {"initial_accumulator": -0.1}),
    *((name, {"differentiable": True}) for name in CLASSES),
    *((name, {"capturable": True}) for name in CLASSES),
    *((name, {"lr": -1.0}) for name in CLASSES),
]


@pytest.mark.parametrize(("name", "own"), AS_CONSTRUCTED, ids=lambda value: str(value))
def test_what_the_constructor_refuses_a_group_may_not_ask_for(name: str, own: dict[str, Any]) -> None:
    optimizer = make(name, parameters())
    for action in (
        lambda: make(name, [{"params": parameters()}, {"params": parameters(), **own}]),
        lambda: optimizer.add_param_group({"params": parameters(), **own}),
    ):
        with pytest.raises(HyperparameterError) as caught:
            action()
        assert caught.value.what
        assert caught.value.fix
    assert len(optimizer.param_groups) == 1


def test_a_flag_that_torch_does_not_read_in_a_class_is_not_read_here() -> None:
    """torch's SGD couples its decay whatever a group says of another class's flag."""
    ours, theirs = parameters(), parameters()
    for optim, found, own in ((sr.optim, ours, {"backend": "eager"}), (torch.optim, theirs, {})):
        group = {"params": found, "decoupled_weight_decay": True}
        optimizer = optim.SGD([group], lr=0.1, momentum=0.9, weight_decay=0.5, **own)
        for _ in range(2):
            found[0].grad = torch.ones(2, 1)
            optimizer.step()
    torch.testing.assert_close(ours[0], theirs[0])


def test_a_rule_without_a_rate_of_that_name_does_not_take_one() -> None:
    @rule
    def descent(theta, g, *, eta=0.1):
        return theta - eta * g

    with pytest.raises(HyperparameterError, match="`descent` has no hyperparameter `lr`") as caught:
        sr.Optimizer([{"params": parameters(), "lr": 0.5}], descent)
    assert "eta" in caught.value.fix
    optimizer = sr.Optimizer(parameters(), descent, backend="eager")
    before = bits(optimizer)
    optimizer.param_groups[0]["lr"] = 0.5  # for a scheduler of another optimiser, say
    optimizer.step()
    assert bits(optimizer) == before
