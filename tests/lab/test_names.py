"""Optimisers by name: each one that is listed learns in the lab, and rules are chained with transforms by `+`."""

import click
import pytest
import torch

import steprule as sr
from steprule.lab.budget import Budget
from steprule.lab.clips import Clip
from steprule.lab.methods import Method
from steprule.lab.optimizers import NAMES, TRANSFORMS, find
from steprule.lab.options import OptimizerNames
from steprule.lab.runs import RunSpec
from steprule.lab.tasks import TaskSpec
from steprule.lab.workers import attempt

pytestmark = pytest.mark.null


def learnt(name, lr, **hyper):
    """Return the result of three iterations of the digits' perceptron, without compiling anything."""
    method = Method(name, (*hyper.items(), ("backend", "eager")))
    budget = Budget(epochs=None, iterations=3)
    return attempt(RunSpec(TaskSpec("digits-mlp"), method, lr, 0, budget, "tuning"))


@pytest.mark.parametrize("name", NAMES)
def test_every_optimiser_that_has_a_name_learns_in_the_lab(name):
    found = Method(name)
    result = learnt(name, lr=found.default_lr if found.lr_range else 1e-3)
    # Langevin dynamics at its usual temperature, 1, draws from a distribution, and so need not go down.
    assert result.status == "finished" or (name, result.status) == ("sgld", "diverged"), result.reason
    assert result.iterations == 3
    assert result.curve[-1].update_ratio > 0


def test_a_rule_is_chained_with_transforms_in_the_order_of_its_name():
    kind = find("clip_value+adam+lookahead+cautious")
    assert kind.target.name == "clip_value+adam+lookahead+cautious"
    assert kind.title == "clip_value + Adam + lookahead + cautious"
    assert kind.takes.keys() == {"beta1", "beta2", "eps", "limit", "every", "alpha"}
    assert find("gd+ema").full_batch
    assert find("steprule.zoo.papers:lion+cautious").default_lr == 1e-4
    assert Method("steprule.zoo.papers:lion+cautious").lr_range == (1e-5, 0.1)
    assert {"cautious", "lookahead", "ema", "clip_value"} <= TRANSFORMS.keys()
    plain, cautious = (learnt(name, lr=0.01).validation_loss for name in ("momentum", "momentum+cautious"))
    assert plain != cautious
    every, never = (learnt("sgd+lookahead", lr=0.01, every=every, alpha=0.0).validation_loss for every in (1, 100))
    assert every != never == learnt("sgd", lr=0.01).validation_loss  # slow weights that never move, and none


def test_a_chain_takes_the_hyperparameters_of_its_parts_beside_clippings_of_the_lab():
    clipped = Method("adam+lookahead", (("beta1", 0.5), ("alpha", 0.25)), (Clip("clip_value", 0.01),))
    optimizer = clipped.optimizer([torch.nn.Parameter(torch.ones(2))], 0.1)
    assert {name: optimizer.param_groups[0][name] for name in ("lr", "beta1", "alpha", "every")} == {
        "lr": 0.1,
        "beta1": 0.5,
        "alpha": 0.25,
        "every": 5,
    }
    assert optimizer.program.name == "clip_value+adam+lookahead"
    assert clipped.explain().formula
    assert clipped.ranges == {}


@pytest.mark.parametrize(
    ("name", "told", "fix"),
    [
        ("adamw+cautious", "adamw is a class", "steprule.zoo.papers:lion"),
        ("cautious+adam", "stands behind", "cautious"),
        ("cautious", "behind", "cautious"),
        ("adam+clip_value", "adam", "last"),
        ("foo+cautious", "'foo' is none of", "adam+cautious"),
        ("adam+cautius", "is none of", "adam+cautious"),
    ],
)
def test_what_is_no_chain_is_refused(name, told, fix):
    with pytest.raises(sr.errors.StepruleError) as caught:
        find(name)
    assert told in caught.value.what
    assert fix in caught.value.fix


def test_all_stands_for_every_name():
    assert OptimizerNames().convert("all", None, None) == NAMES
    with pytest.raises(click.BadParameter, match="'all' is none of"):
        OptimizerNames().convert("adam,all", None, None)
