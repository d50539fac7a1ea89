"""Random numbers in a rule: each call draws for itself, reading again draws the same, and what cannot be is refused."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from told import pointed, refused

import steprule as sr
from steprule import chain, normal, rule, transform
from steprule.graph.evaluate import evaluate

pytestmark = pytest.mark.null


@rule
def langevin(theta, g, *, lr=0.1):
    return theta - lr * g + sr.sqrt(2 * lr) * normal()


@transform
def noisy(theta, g, *, size=0.1):
    return g + size * normal()


def test_each_call_draws_for_itself_and_reading_again_gives_the_same_formula() -> None:
    both = rule(lambda theta, g, *, lr=1.0: theta - lr * (normal() - normal()))
    assert len(both.graph.draws) == 2
    assert rule(both.part.function).graph.new_parameter is both.graph.new_parameter
    twice = chain(noisy, noisy, langevin)
    assert [node.attr for node in twice.graph.draws] == [0.0, 1.0, 2.0]
    (found,) = evaluate(both.graph, [{"theta": np.zeros(4), "g": np.zeros(4)}], [{"lr": 1.0, "t": 1.0}])
    assert np.all(found["theta"] != 0)
    assert "normal₁() − normal₂()" in sr.explain(both).formula
    assert r"\mathrm{normal}()" in sr.explain(langevin).latex


def test_what_cannot_be_drawn_is_refused_with_a_line_that_works() -> None:
    error = refused(normal)
    assert "no rule is being read" in error.what
    error = refused(lambda: rule(lambda theta, g, *, lr=1.0: theta - lr * normal(g)).graph)
    assert "write normal()" in error.fix
    error = refused(lambda: rule(lambda theta, g, *, lr=1.0: theta - lr * random.gauss() * g).graph)
    assert "normal(), uniform() and rademacher()" in error.fix
    error = refused(lambda: rule(lambda theta, g, *, lr=1.0: theta - lr * torch.randn_like(g)).graph)
    assert "write normal()" in error.fix
    ahead = rule(evaluate_at=lambda theta: theta + normal())(langevin.part.function)
    error = refused(lambda: ahead.graph)
    assert "could not be told again" in error.what
    assert "normal()" in pointed(error)
