"""A rule that says something else when it is read again is refused at the author's line, and never frozen as it is."""

from __future__ import annotations

import datetime as dt
import functools
import itertools
import os
import random
import secrets
import time
import uuid
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from told import pointed, refused

import steprule as sr
from steprule import board, chain, rule, transform

pytestmark = pytest.mark.null

COUNT = 0
SEEN: list[int] = []
TABLE = {"inner": [0]}
COUNTER = itertools.count()
QUEUE = deque([0.0])
GENERATOR = np.random.default_rng(1)
DICE = random.Random(1)
SCALE = 0.5


class Schedule:
    steps = 0

    def __init__(self) -> None:
        self.calls = 0


SCHEDULE = Schedule()


# What changes ------------------------------------------------------------------------------------------


def draws_from_random(theta, g, *, lr=0.1):
    return theta - lr * random.gauss(0, 1) * g


def tosses_a_coin(theta, g, *, lr=0.1):
    return theta - lr * random.choice([1, 2]) * g


def tosses_a_coin_of_its_own(theta, g, *, lr=0.1):
    return theta - lr * DICE.choice([1, 1]) * g


def draws_from_numpy(theta, g, *, lr=0.1):
    return theta - lr * np.random.normal() * g  # noqa: NPY002


def draws_from_a_generator(theta, g, *, lr=0.1):
    return theta - lr * GENERATOR.normal() * g


def tosses_numpys_coin(theta, g, *, lr=0.1):
    return theta - lr * (GENERATOR.random() < 2) * g


def draws_from_torch(theta, g, *, lr=0.1):
    return theta - lr * torch.rand(()).item() * g


def tosses_torchs_coin(theta, g, *, lr=0.1):
    return theta - lr * (1 + int(torch.randint(2, ()))) * g


def draws_from_the_system(theta, g, *, lr=0.1):
    return theta - lr * os.urandom(8)[0] / int.from_bytes(os.urandom(8)) * g


def keeps_a_secret(theta, g, *, lr=0.1):
    return theta - lr * secrets.randbelow(2) * g


def is_unique(theta, g, *, lr=0.1):
    return theta - lr * (uuid.uuid4().int % 2) * g


def asks_the_clock(theta, g, *, lr=0.1):
    return theta - lr * time.perf_counter() * g


def asks_for_the_hour(theta, g, *, lr=0.1):
    return theta - lr * time.localtime().tm_hour * g


def asks_for_the_day(theta, g, *, lr=0.1):
    return theta - lr * dt.date.today().day * g


def imports_the_clock(theta, g, *, lr=0.1):
    import time as clock

    return theta - lr * int(clock.time()) * g


def asks_where_it_is(theta, g, *, lr=0.1):
    return theta - lr * (id(object()) % 7) * g


def counts_in_a_global(theta, g, *, lr=0.1):
    global COUNT
    COUNT += 1
    return theta - lr * g / COUNT


def warms_up_by_a_global(theta, g, *, lr=0.1):
    global COUNT
    COUNT += 1
    return theta - lr * g if COUNT > 10_000 else theta


def appends_to_a_list(theta, g, *, lr=0.1):
    SEEN.append(1)
    return theta - lr * g * (0.5 if len(SEEN) > 10_000 else 1)


def changes_a_table(theta, g, *, lr=0.1):
    TABLE["inner"][0] += 1
    return theta - lr * g


def takes_the_next_count(theta, g, *, lr=0.1):
    return theta - lr * g / (1 + next(COUNTER))


def skips_a_count(theta, g, *, lr=0.1):
    next(COUNTER)
    return theta - lr * g


def turns_a_queue(theta, g, *, lr=0.1):
    QUEUE.append(QUEUE[-1] + 1)
    return theta - lr * g


def counts_in_an_object(theta, g, *, lr=0.1):
    SCHEDULE.calls += 1
    return theta - lr * g


def counts_in_a_class(theta, g, *, lr=0.1):
    Schedule.steps += 1
    return theta - lr * g


def counts_in_itself(theta, g, *, lr=0.1):
    helping.calls = getattr(helping, "calls", 0) + 1
    return theta - lr * g


def helping(g, calls=[]):  # noqa: B006
    calls.append(1)
    return g / len(calls)


def helps_itself(theta, g, *, lr=0.1):
    return theta - lr * helping(g)


def in_a_closure() -> Callable[..., Any]:
    steps = 0

    def counts_in_a_closure(theta, g, *, lr=0.1):
        nonlocal steps
        steps += 1
        return theta - lr * g / steps

    return counts_in_a_closure


def out_of_an_iterator() -> Callable[..., Any]:
    rates = iter([0.1])

    def uses_a_rate_up(theta, g, *, lr=0.1):
        return theta - next(rates) * g

    return uses_a_rate_up


def out_of_a_set(theta, g, *, lr=0.1):
    return theta - lr * functools.reduce(lambda a, b: a + b, {g, theta})


@pytest.mark.hostile("R4")
@pytest.mark.parametrize(
    ("function", "snippet"),
    [
        (draws_from_random, "lr * random.gauss(0, 1)"),
        (tosses_a_coin, None),
        (tosses_a_coin_of_its_own, "DICE"),
        (draws_from_numpy, "lr * np.random.normal()"),
        (draws_from_a_generator, "lr * GENERATOR.normal()"),
        (tosses_numpys_coin, "GENERATOR"),
        (draws_from_torch, "lr * torch.rand(()).item()"),
        (tosses_torchs_coin, "lr * (1 + int(torch.randint(2, ())))"),
        (draws_from_the_system, None),
        (keeps_a_secret, "secrets"),
        (is_unique, "uuid"),
        (asks_the_clock, "time"),
        (asks_for_the_hour, "time"),
        (asks_for_the_day, "dt"),
        (imports_the_clock, "import time as clock"),
        (asks_where_it_is, "id"),
        (counts_in_a_global, "lr * g / COUNT"),
        (warms_up_by_a_global, "COUNT"),
        (appends_to_a_list, "SEEN"),
        (changes_a_table, "TABLE"),
        (takes_the_next_count, "lr * g / (1 + next(COUNTER))"),
        (skips_a_count, "COUNTER"),
        (turns_a_queue, "QUEUE"),
        (counts_in_an_object, "SCHEDULE"),
        (counts_in_a_class, "Schedule"),
        (counts_in_itself, "helping"),
        (helps_itself, "g / len(calls)"),
        (in_a_closure(), "lr * g / steps"),
        (out_of_an_iterator(), "next(rates)"),
        (out_of_a_set, "{g, theta}"),
    ],
    ids=lambda item: getattr(item, "__name__", ""),
)
def test_a_rule_that_is_not_the_same_when_read_again_is_refused_at_its_line(function: Any, snippet: str | None) -> None:
    error = refused(lambda: rule(function).graph)
    found = pointed(error)
    assert snippet is None or found == snippet
    assert "hyperparameter" in error.fix or "list" in error.fix


def test_wherever_in_a_program_it_stands() -> None:
    """In a chain, in a look-ahead, in another rule, and before an optimiser exists."""

    @transform
    def noisy(theta, g, *, size=1.0):
        return g + size * random.random()

    @rule
    def outer(theta, g, *, lr=0.1):
        return board.sgd(theta, noisy(theta, g), lr=lr)

    ahead = rule(evaluate_at=lambda theta, m: theta - random.random() * m)(board.momentum.part.function)
    for program in (chain(noisy, board.sgd), outer, ahead):
        assert "random.random()" in pointed(refused(lambda program=program: program.graph))
    parameter = torch.nn.Parameter(torch.ones(2))
    assert "not the same" in refused(lambda: sr.Optimizer([parameter], chain(noisy, board.sgd))).what


# What does not -----------------------------------------------------------------------------------------

MEMO: dict[float, float] = {}


def looked_up(value: float) -> float:
    if value not in MEMO:
        MEMO[value] = value**0.5
    return MEMO[value]


@functools.cache
def kept(value: float) -> float:
    return value / 3


class Config:
    time = 2.0
    id = 3.0
    rate = 0.5


def test_rules_that_only_look_impure_are_read() -> None:
    """Constants, memories that are filled once, dice with a seed of their own, and names that mean something else."""
    config, weights = Config(), {"a": 0.5, "b": 0.25}

    def constant(theta, g, *, lr=0.1):
        return theta - lr * SCALE * config.rate * sum(weights.values()) * g

    def remembered(theta, g, *, lr=0.1):
        return theta - lr * looked_up(2.0) * kept(6.0) * g

    def seeded(theta, g, *, lr=0.1):
        return theta - lr * random.Random(3).random() * np.random.default_rng(3).normal() * g

    def named(theta, g, *, lr=0.1):
        id = config.id  # noqa: A001
        return theta - lr * config.time * id * g

    def looped(theta, g, *, lr=0.1):
        for power in range(1, 4):
            theta = theta - lr * g**power
        return theta

    for function in (constant, remembered, seeded, named, looped):
        assert rule(function).graph.new_parameter is rule(function).graph.new_parameter


def test_numbers_that_can_change_in_place_do_not_stand_in_a_formula() -> None:
    """A tensor or an array would be read once, when the formula is."""
    for held in (torch.tensor(0.5), np.array(0.5), torch.nn.Parameter(torch.tensor(0.5))):
        error = refused(lambda held=held: rule(lambda theta, g, *, lr=0.1: theta - lr * held * g).graph)
        assert "held" in pointed(error)
        assert "hyperparameter" in error.fix
    assert rule(lambda theta, g, *, lr=0.1: theta - lr * np.float32(0.5) * g).graph.new_parameter
