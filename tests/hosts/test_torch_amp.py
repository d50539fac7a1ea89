"""torch.amp: autocast and GradScaler around our optimisers, through overflows and a checkpoint of both."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from hosting import BF16
from torch_loop import PAIRS, deviation, held, identical, loss_of, network, through_a_file

pytestmark = [pytest.mark.cpu, pytest.mark.host("torch.amp")]

STEPS, HALF = 12, 6
OVERFLOWS = {2, 7, 8}

KINDS = [("AdamW", {}), ("SGD", {}), ("a rule", {}), ("AdamW", {"fused": True}), ("SGD", {"fused": True})]


class Run:
    """A model whose layers run in bfloat16, trained under a scaler; at some steps a gradient overflows."""

    def __init__(self, side: int, pair: str, more: dict[str, Any]) -> None:
        self.model = network(torch.float32)
        self.optimizer = PAIRS[pair][side](self.model.parameters(), **PAIRS[pair][2], **more)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
        self.scales: list[float] = []
        self.moved: list[bool] = []

    def parts(self) -> list[Any]:
        return [self.model, self.optimizer, self.scaler]

    def steps(self, numbers: Iterable[int], clip: float | None = None) -> None:
        for number in numbers:
            self.optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = loss_of(self.model, number, torch.float32)
            self.scaler.scale(loss).backward()
            if number in OVERFLOWS:
                self.model[0].weight.grad[1, 2] = torch.inf
            before = self.model[2].bias.detach().clone()
            if clip is not None:
                self.scaler.unscale_(self.optimizer)
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.scales.append(self.scaler.get_scale())
            self.moved.append(not torch.equal(before, self.model[2].bias))


@pytest.mark.parametrize("clip", [None, 0.05], ids=["not clipped", "clipped by hand"])
@pytest.mark.parametrize(("pair", "more"), KINDS, ids=str)
def test_a_scaled_run_follows_that_of_torch_skips_overflows_and_resumes_bit_for_bit(
    pair: str, more: dict[str, Any], clip: float | None
) -> None:
    """Whether the scaler unscales the gradients or, with fused=True, our kernel does."""
    own, twin, other = (Run(side, pair, more) for side in (0, 1, 0))
    own.steps(range(HALF), clip)
    twin.steps(range(STEPS), clip)
    for part, state in zip(other.parts(), through_a_file([p.state_dict() for p in own.parts()]), strict=True):
        part.load_state_dict(state)
    own.steps(range(HALF, STEPS), clip)
    other.steps(range(HALF, STEPS), clip)
    assert own.scales == twin.scales
    assert len(set(own.scales)) > 2
    assert own.moved == twin.moved == [number not in OVERFLOWS for number in range(STEPS)]
    assert deviation(own.model.parameters(), twin.model.parameters()) <= BF16
    assert identical(held(other.optimizer), held(own.optimizer))
    assert other.scales == own.scales[HALF:]
