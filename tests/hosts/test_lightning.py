"""Lightning: our optimisers in its closures, with its schedules, clipping, mixed precision and checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hosting import BF16, HYPER, MAX_NORM, OURS, assert_apart, assert_close, assert_same, muon, two_rules, weights

import steprule as sr

lightning = pytest.importorskip("lightning.pytorch")

pytestmark = [
    pytest.mark.cpu,
    pytest.mark.host("Lightning"),
    # Lightning's own use of torch.
    pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\).* is deprecated:FutureWarning"),
]

EPOCHS = 4


class Classifier(lightning.LightningModule):
    """A small network with dropout, whose optimiser is given from outside and scheduled by the step."""

    def __init__(self, make: Any, **hyper: Any) -> None:
        super().__init__()
        self.make, self.hyper = make, {**HYPER, **hyper}
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(4, 16), torch.nn.GELU(), torch.nn.Dropout(0.1), torch.nn.Linear(16, 3)
        )

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        if index == 0:
            torch.manual_seed(self.current_epoch)  # a checkpoint of Lightning's holds no random state
        return torch.nn.functional.cross_entropy(self.layers(batch[0]), batch[1])

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = self.make(self.parameters(), **self.hyper)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.02, total_steps=40, cycle_momentum=False)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def fit(make: Any, epochs: int = EPOCHS, resume: Path | None = None, save: Path | None = None,
        hyper: dict[str, Any] | None = None, **options: Any) -> dict[str, torch.Tensor]:  # fmt: skip
    """Train with a new Trainer, from a checkpoint of another one if there is one, and leave one if asked to."""
    lightning.seed_everything(0, verbose=False)
    module = Classifier(make, **(hyper or {}))
    data = torch.utils.data.TensorDataset(torch.randn(24, 4), torch.randint(0, 3, (24,)))
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **options)  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=6), ckpt_path=resume)
    assert trainer.global_step == 4 * epochs
    if save is not None:
        trainer.save_checkpoint(save)
    return weights(module)


@pytest.mark.parametrize("kind", OURS)
def test_clipping_in_the_step_gives_what_lightnings_clipping_gives_with_torch(kind: str) -> None:
    ours = fit(OURS[kind], hyper={"clip": MAX_NORM})
    assert_close(ours, fit(torch.optim.AdamW, gradient_clip_val=MAX_NORM))
    assert_apart(ours, fit(torch.optim.AdamW))


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_lightnings_clipping_inside_the_closure_gives_what_it_gives_with_torch(kind: str, algorithm: str) -> None:
    ours = fit(OURS[kind], gradient_clip_val=1e-3, gradient_clip_algorithm=algorithm)
    assert_close(ours, fit(torch.optim.AdamW, gradient_clip_val=1e-3, gradient_clip_algorithm=algorithm))
    assert_apart(ours, fit(torch.optim.AdamW))


@pytest.mark.parametrize("kind", OURS)
def test_mixed_precision_gives_what_it_gives_with_torch(kind: str) -> None:
    options: dict[str, Any] = {"gradient_clip_val": MAX_NORM, "precision": "bf16-mixed"}
    ours = fit(OURS[kind], **options)
    assert_close(ours, fit(torch.optim.AdamW, **options), BF16)
    assert_apart(ours, fit(torch.optim.AdamW, gradient_clip_val=MAX_NORM))


def looks_ahead(params: Any, eps: float, **hyper: Any) -> sr.Optimizer:
    """Make an optimiser that evaluates Lightning's closure at another point than the stored one."""
    return sr.board.nesterov.optimizer(params, **hyper)


@pytest.mark.parametrize("make", [*OURS.values(), sr.board.adam.optimizer, looks_ahead, two_rules, muon])
def test_an_interrupted_run_ends_bit_by_bit_where_it_would_have(make: Any, tmp_path: Path) -> None:
    hyper = {"clip": MAX_NORM}
    fit(make, EPOCHS // 2, save=tmp_path / "half.ckpt", hyper=hyper)
    assert_same(fit(make, resume=tmp_path / "half.ckpt", hyper=hyper), fit(make, hyper=hyper))


@pytest.mark.parametrize(("first", "then"), [(torch.optim.AdamW, sr.optim.AdamW), (sr.optim.AdamW, torch.optim.AdamW)])
def test_a_run_may_change_between_torch_and_ours_at_a_checkpoint(first: Any, then: Any, tmp_path: Path) -> None:
    fit(first, EPOCHS // 2, save=tmp_path / "half.ckpt", gradient_clip_val=MAX_NORM)
    changed = fit(then, resume=tmp_path / "half.ckpt", gradient_clip_val=MAX_NORM)
    assert_close(changed, fit(torch.optim.AdamW, gradient_clip_val=MAX_NORM))
