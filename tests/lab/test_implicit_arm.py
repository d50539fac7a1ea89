"""Implicit Nesterov momentum as an arm: gradients counted apart from iterations, and steps that find no end."""

from __future__ import annotations

import json

import pytest

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
    assert Method(NAME).is_implicit
    assert Method("nesterov", (("look_ahead", "implicit"), ("tolerance", 1e-6))).is_implicit
    assert not Method("nesterov").is_implicit
    assert not Method("adamw").is_implicit
    assert "∇L(θₜ)" in Method(NAME).made_of()


def test_an_older_record_counts_iterations() -> None:
    assert words.evaluations({"iterations": 5}) == 5
    assert words.evaluations({"iterations": 5, "gradient_evaluations": 9}) == 9
