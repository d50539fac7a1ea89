"""Arms whose steps evaluate gradients (implicit Nesterov, SAM, MARS): counted apart from iterations, and their ends."""

from __future__ import annotations

import json

import pytest
import torch

from steprule.lab.budget import Budget
from steprule.lab.methods import Method
from steprule.lab.optimizers import find
from steprule.lab.report import words
from steprule.lab.runs import RunSpec, from_record
from steprule.lab.tasks import TaskSpec
from steprule.lab.training import train

pytestmark = pytest.mark.cpu

NAME = "nesterov-implicit"


def spec(method: Method, lr: float = 0.1, **budget: object) -> RunSpec:
    own = Budget(**{"epochs": None, "iterations": 12, **budget})
    return RunSpec(TaskSpec("cancer-logreg"), method, lr, 0, own)


def test_gradients_are_counted_apart_from_iterations() -> None:
    implicit, explicit = train(spec(Method(NAME))), train(spec(Method("nesterov")))
    assert (implicit.iterations, explicit.iterations) == (12, 12)
    assert explicit.gradient_evaluations == 12 < implicit.gradient_evaluations
    assert implicit.status == explicit.status == "finished"
    assert all(p.gradient_norm and p.update_ratio for p in implicit.curve[1:])
    record = json.loads(json.dumps(implicit.as_record()))
    assert record["gradient_evaluations"] == implicit.gradient_evaluations
    assert from_record(implicit.spec, record) == implicit
    del record["gradient_evaluations"]
    assert from_record(implicit.spec, record).gradient_evaluations == 12


def test_a_step_that_finds_no_end_makes_a_diverged_run() -> None:
    result = train(spec(Method(NAME), lr=1e4))
    assert result.status == "diverged"
    assert "the iteration does not contract" in result.reason


def test_the_arm_is_known_by_name_and_by_its_variant() -> None:
    assert find(NAME).takes == {"beta": 0.9, "tolerance": 1e-14, "max_eval": 500, "look_ahead": "implicit"}
    assert Method(NAME).needs_closure
    assert Method("nesterov", (("look_ahead", "implicit"), ("tolerance", 1e-6))).needs_closure
    assert not Method("nesterov").needs_closure
    assert not Method("adamw").needs_closure
    assert "∇L(θₜ)" in Method(NAME).made_of()


EAGER = ("backend", "eager")  # nothing to compile


@pytest.mark.parametrize("name", ["sam+momentum", "sam+adam", "mars-exact"])
def test_two_gradients_an_iteration_are_counted(name: str) -> None:
    """And the losses are those at the parameters themselves: the first is that of plain momentum's run."""
    own = Budget(epochs=None, iterations=3)
    result, plain = (
        train(RunSpec(TaskSpec("digits-mlp"), Method(one, (EAGER,)), 0.1, 0, own)) for one in (name, "momentum")
    )
    assert (result.iterations, result.gradient_evaluations, plain.gradient_evaluations) == (3, 6, 3)
    assert result.curve[1].training_loss == plain.curve[1].training_loss
    assert result.curve[2].training_loss != plain.curve[2].training_loss


def test_dropout_draws_the_same_for_both_gradients() -> None:
    """With ρ = 0 the second gradient is the first again, so the run is that of the rule alone."""
    own = Budget(epochs=None, iterations=3)
    ends = [train(RunSpec(TaskSpec("digits-cnn"), method, 0.1, 0, own)).final_loss
            for method in (Method("sam+momentum", (("rho", 0.0), EAGER)), Method("momentum", (EAGER,)))]  # fmt: skip
    assert ends[0] == ends[1]


def test_a_first_loss_that_is_not_finite_ends_a_run_before_its_step() -> None:
    result = train(spec(Method("sam+momentum", (EAGER,)), lr=1e200))
    assert result.status == "diverged"
    assert "the loss of iteration 2 is inf" in result.reason
    assert (result.gradient_evaluations, result.iterations) == (3, 1)


def test_a_chain_by_name_takes_hyperparameters_and_variants_of_its_parts() -> None:
    assert find("sam+momentum").takes == {"beta": 0.9, "rho": 0.05, "adaptive": False}
    method = Method("sam+momentum", (("rho", 0.5), ("adaptive", True), ("beta", 0.8)))
    optimizer = method.optimizer([torch.nn.Parameter(torch.ones(2))], 0.1)
    assert [optimizer.param_groups[0][name] for name in ("rho", "beta")] == [0.5, 0.8]
    assert "|θₜ₋₁|" in method.made_of()
    assert method.needs_closure
    every = Method("adam+lookahead", (("every", 6),)).optimizer([torch.nn.Parameter(torch.ones(2))], 0.1)
    assert every.param_groups[0]["every"] == 6


def test_an_older_record_counts_iterations() -> None:
    assert words.evaluations({"iterations": 5}) == 5
    assert words.evaluations({"iterations": 5, "gradient_evaluations": 9}) == 9
