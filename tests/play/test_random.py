"""The browser's generator of random numbers draws what torch's draws."""

import json
from pathlib import Path

import pytest
import torch

import steprule

mini_racer = pytest.importorskip("py_mini_racer", reason="needs V8: pip install mini-racer")

pytestmark = pytest.mark.null

WEB = Path(steprule.__file__).parent / "play" / "web"
SEEDS = (0, 1, 20, 2**31, 2**32 - 1)


@pytest.fixture(scope="module")
def draw():
    """Return a function that gives the value of an expression in which `g` is a generator of a seed."""
    engine = mini_racer.MiniRacer()
    engine.eval((WEB / "random.js").read_text(encoding="utf-8"))
    return lambda seed, expression: json.loads(
        engine.eval(f"(() => {{ const g = steprule.generator({seed}); return JSON.stringify({expression}); }})()")
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("size", [0, 1, 2, 10, 1077])
def test_permutations_one_after_another_are_those_of_torch(draw, seed, size):
    generator = torch.Generator().manual_seed(seed)
    expected = [torch.randperm(size, generator=generator).tolist() for _ in range(3)]
    assert draw(seed, f"[1, 2, 3].map(() => [...g.randperm({size})])") == expected


def test_a_permutation_of_a_million_is_that_of_torch(draw):
    expected = torch.randperm(1_000_003, generator=torch.Generator().manual_seed(3))
    assert draw(3, "[...g.randperm(1000003)]") == expected.tolist()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.125, 0.125), (-0.3, 0.7), (-0.123, 0.1234), (-1 / 24, 1 / 24)])
def test_uniform_numbers_are_those_of_torch_bit_for_bit(draw, seed, low, high):
    """More than one block of 624, and bounds that float32 does not hold."""
    expected = torch.empty(5000).uniform_(low, high, generator=torch.Generator().manual_seed(seed))
    assert draw(seed, f"[...g.uniform(5000, {low!r}, {high!r})]") == expected.double().tolist()


@pytest.mark.parametrize("seed", SEEDS)
def test_draws_of_several_kinds_follow_one_another_as_in_torch(draw, seed):
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(0, 2**20, (5,), generator=generator)
    wide = torch.randint(0, 2**62, (5,), generator=generator)
    shares = torch.rand(700, dtype=torch.float64, generator=generator)
    got = draw(
        seed,
        "[Array.from({length: 5}, () => g.random() % 2 ** 20), "
        "Array.from({length: 5}, () => String(g.random64() % (1n << 62n))), [...g.uniform64(700)]]",
    )
    assert got == [words.tolist(), [str(number) for number in wide.tolist()], shares.tolist()]
