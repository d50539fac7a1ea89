"""Accelerate: our optimisers inside `prepare`, with its accumulation, clipping, mixed precision and checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hosting import (
    BF16,
    BOARD,
    HYPER,
    MAX_NORM,
    OURS,
    assert_apart,
    assert_close,
    assert_same,
    muon,
    two_rules,
    weights,
)

import steprule as sr

accelerate = pytest.importorskip("accelerate")

pytestmark = [pytest.mark.cpu, pytest.mark.host("Accelerate")]

EPOCHS, ACCUMULATED = 4, 2


@pytest.fixture(autouse=True)
def own_state() -> Iterator[None]:
    """Accelerate keeps one state a process, mixed precision included; each test gets its own."""
    yield
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


class Run:
    """A script of the usual form: everything prepared, batches shuffled, two of them a step, a schedule."""

    def __init__(self, make: Any, max_norm: float | None = None, precision: str = "no", **hyper: Any) -> None:
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
        accelerate.utils.set_seed(0)
        self.max_norm = max_norm
        self.accelerator = accelerate.Accelerator(
            cpu=True, mixed_precision=precision, gradient_accumulation_steps=ACCUMULATED
        )
        model = torch.nn.Sequential(
            torch.nn.Linear(4, 16), torch.nn.GELU(), torch.nn.Dropout(0.1), torch.nn.Linear(16, 3)
        )
        decay = [{"params": [model[0].weight, model[3].weight], "weight_decay": 0.1},
                 {"params": [model[0].bias, model[3].bias], "weight_decay": 0.0}]  # fmt: skip
        optimizer = make(decay, **{**HYPER, **hyper})
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
        data = torch.utils.data.TensorDataset(torch.randn(24, 4), torch.randint(0, 3, (24,)))
        loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True)
        self.model, self.optimizer, self.loader, self.schedule = self.accelerator.prepare(
            model, optimizer, loader, schedule
        )

    def train(self, epochs: int = EPOCHS) -> dict[str, torch.Tensor]:
        for _ in range(epochs):
            for x, y in self.loader:
                with self.accelerator.accumulate(self.model):
                    self.accelerator.backward(torch.nn.functional.cross_entropy(self.model(x), y))
                    if self.max_norm is not None and self.accelerator.sync_gradients:
                        self.accelerator.clip_grad_norm_(self.model.parameters(), self.max_norm)
                    self.optimizer.step()
                    self.schedule.step()
                    self.optimizer.zero_grad()
        return weights(self.accelerator.unwrap_model(self.model))


@pytest.mark.parametrize("kind", OURS)
def test_clipping_in_the_step_gives_what_accelerates_clipping_gives_with_torch(kind: str) -> None:
    ours = Run(OURS[kind], clip=MAX_NORM).train()
    assert_close(ours, Run(torch.optim.AdamW, MAX_NORM).train())
    assert_apart(ours, Run(torch.optim.AdamW).train())


@pytest.mark.parametrize("kind", OURS)
def test_accelerates_clipping_and_autocast_to_bfloat16_give_what_they_give_with_torch(kind: str) -> None:
    ours = Run(OURS[kind], MAX_NORM, "bf16").train()
    assert_close(ours, Run(torch.optim.AdamW, MAX_NORM, "bf16").train(), BF16)
    assert_apart(ours, Run(torch.optim.AdamW, MAX_NORM).train())


@pytest.mark.parametrize("make", [*OURS.values(), BOARD.optimizer, two_rules, muon])
def test_an_interrupted_run_ends_bit_by_bit_where_it_would_have(make: Any, tmp_path: Path) -> None:
    """Checkpoints are Accelerate's own: weights, optimiser, schedule, sampler and random states."""
    whole = Run(make, clip=MAX_NORM)
    whole.train(EPOCHS // 2)
    whole.accelerator.save_state(str(tmp_path))
    expected = whole.train(EPOCHS // 2)
    resumed = Run(make, clip=MAX_NORM)
    resumed.accelerator.load_state(str(tmp_path))
    assert_same(resumed.train(EPOCHS // 2), expected)


@pytest.mark.parametrize(("first", "then"), [(torch.optim.AdamW, sr.optim.AdamW), (sr.optim.AdamW, torch.optim.AdamW)])
def test_a_run_may_change_between_torch_and_ours_at_a_checkpoint(first: Any, then: Any, tmp_path: Path) -> None:
    begun = Run(first, MAX_NORM)
    begun.train(EPOCHS // 2)
    begun.accelerator.save_state(str(tmp_path))
    changed = Run(then, MAX_NORM)
    changed.accelerator.load_state(str(tmp_path))
    assert_close(changed.train(EPOCHS // 2), Run(torch.optim.AdamW, MAX_NORM).train())
