"""A few of the scenarios of `make fuzz`, always the same ones, and proof that the fuzzer can find something."""

from __future__ import annotations

import random

import pytest
import torch
from fenced import LAYOUTS, Fenced
from scenario import Mismatch, Scenario, live

import steprule as sr

pytestmark = pytest.mark.cpu


@pytest.mark.parametrize("seed", range(16))
def test_a_random_life_of_an_optimiser_agrees_with_the_oracle_at_every_step(seed: int) -> None:
    log = live(seed, steps=6)
    assert sum(entry.startswith("step ") for entry in log) == 6


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_byte_written_beside_a_tensor_is_seen(layout: str) -> None:
    fence = Fenced(torch.ones(3, 2, 2, 2), layout, random.Random(1))
    fence.tensor.fill_(2.0)
    assert not fence.broken()
    beside = int(fence._beside.nonzero()[0][-1])
    fence._bytes[beside] ^= 1
    assert fence.broken()


@pytest.mark.parametrize("spoil", ["value", "state", "gradient", "neighbour"])
def test_the_fuzzer_finds_a_step_that_is_wrong_in_one_place(spoil: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong_step(optimizer: sr.Optimizer) -> None:
        original(optimizer)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                state = [v for v in optimizer.state.get(parameter, {}).values() if v.dim() and v.numel()]
                if parameter.grad is not None and parameter.numel() and (state or spoil != "state"):
                    with torch.no_grad():
                        first = {"value": parameter, "state": state and state[0], "gradient": parameter.grad}
                        if spoil in first:
                            first[spoil].view(-1)[0].mul_(1.1).add_(0.1)
                        else:
                            scenario.fences[parameter][0]._bytes[scenario.fences[parameter][0]._beside] = 0
                    return

    original = sr.Optimizer.step
    wrong_step.hooked = True  # or torch would wrap it into the subclass for good
    monkeypatch.setattr(sr.Optimizer, "step", wrong_step)
    scenario = next(s for s in map(Scenario, range(100)) if s.name == "Adam" and s.parameters and not s.dice.seed(3))
    with pytest.raises(Mismatch):
        _steps(scenario)


def _steps(scenario: Scenario) -> None:
    for _ in range(3):
        scenario.step()
