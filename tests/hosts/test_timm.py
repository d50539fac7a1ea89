"""timm's factory: our optimisers in its registry, with its groups, layer decay, schedules, scaler and checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hosting import BF16, BOARD, HYPER, MAX_NORM, OURS, RuleAdamW, assert_apart, assert_close, assert_same, weights

import steprule as sr

timm = pytest.importorskip("timm")
factory = pytest.importorskip("timm.optim._optim_factory")
models = pytest.importorskip("timm.models")
scheduler = pytest.importorskip("timm.scheduler")
vision_transformer = pytest.importorskip("timm.models.vision_transformer")

pytestmark = [pytest.mark.cpu, pytest.mark.host("timm's factory")]

STEPS = 6
NAMES = {"AdamW": "stepruleadamw", "a rule": "rule"}
for _info in (
    factory.OptimInfo("stepruleadamw", sr.optim.AdamW, "AdamW, compiled", has_betas=True),
    factory.OptimInfo("rule", RuleAdamW, "a rule of one's own, as a class"),
    factory.OptimInfo("board", BOARD.optimizer, "a rule of the whiteboard, as a function"),
):
    factory.default_registry.register(_info)


class Run:
    """A small vision transformer with dropout, an optimiser by its name, layer decay, and a schedule by the step."""

    def __init__(self, name: str, **options: Any) -> None:
        torch.manual_seed(0)
        self.model = vision_transformer.VisionTransformer(
            img_size=8, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=3, proj_drop_rate=0.1
        )
        self.optimizer = factory.create_optimizer_v2(
            self.model, name, **{**HYPER, "weight_decay": 0.1, "layer_decay": 0.5, **options}
        )
        self.schedule, _ = scheduler.create_scheduler_v2(
            self.optimizer, "cosine", num_epochs=10, warmup_epochs=2, warmup_lr=1e-3
        )
        self.schedule.step(0)

    def train(self, first: int, last: int, clip: float | None = None, dtype: torch.dtype | None = None) -> Any:
        """Take steps with a scaler that clips, under autocast if a dtype is given."""
        scaler = timm.utils.NativeScaler(device="cpu")
        for step in range(first, last):
            torch.manual_seed(step)
            with torch.autocast("cpu", dtype, enabled=dtype is not None):
                x, y = torch.randn(6, 3, 8, 8), torch.randint(0, 3, (6,))
                loss = torch.nn.functional.cross_entropy(self.model(x), y)
            scaler(loss, self.optimizer, clip_grad=clip, parameters=self.model.parameters())
            self.optimizer.zero_grad()
            self.schedule.step(step + 1)
        return weights(self.model)


@pytest.mark.parametrize("kind", OURS)
def test_clipping_in_the_step_gives_what_timms_clipping_gives_with_torch(kind: str) -> None:
    ours = Run(NAMES[kind], clip=MAX_NORM).train(0, STEPS)
    assert_close(ours, Run("adamw").train(0, STEPS, clip=MAX_NORM))
    assert_apart(ours, Run("adamw").train(0, STEPS))


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_timms_scaler_and_autocast_give_what_they_give_with_torch(kind: str, dtype: torch.dtype) -> None:
    ours = Run(NAMES[kind]).train(0, STEPS, MAX_NORM, dtype)
    assert_close(ours, Run("adamw").train(0, STEPS, MAX_NORM, dtype), BF16)
    assert_apart(ours, Run("adamw").train(0, STEPS, MAX_NORM))


def test_unscaling_and_clipping_in_one_kernel_give_what_timms_scaler_gives_with_torch() -> None:
    """With `fused=True` the scaler leaves both to the optimiser, which then clips what it has unscaled."""
    ours = Run("stepruleadamw", fused=True, clip=MAX_NORM).train(0, STEPS, dtype=torch.float16)
    assert_close(ours, Run("adamw").train(0, STEPS, MAX_NORM, torch.float16), BF16)


@pytest.mark.parametrize("kind", OURS)
def test_every_layer_has_its_rate_and_matrices_alone_their_decay(kind: str) -> None:
    groups, theirs = Run(NAMES[kind]).optimizer.param_groups, Run("adamw").optimizer.param_groups
    keys = ("lr", "lr_scale", "weight_decay")
    assert [[group[key] for key in keys] for group in groups] == [[group[key] for key in keys] for group in theirs]
    assert {group["lr_scale"] for group in groups} == {1.0, 0.5, 0.25, 0.125}
    assert {group["weight_decay"] for group in groups} == {0.0, 0.1}


@pytest.mark.parametrize("name", [*NAMES.values(), "board", "lookahead_stepruleadamw"])
def test_an_interrupted_run_ends_bit_by_bit_where_it_would_have(name: str, tmp_path: Path) -> None:
    begun = Run(name)
    begun.train(0, STEPS // 2)
    saver = timm.utils.CheckpointSaver(begun.model, begun.optimizer, checkpoint_dir=str(tmp_path))
    saver.save_checkpoint(epoch=STEPS // 2 - 1)
    resumed = Run(name)
    first = models.resume_checkpoint(resumed.model, str(tmp_path / "last.pth.tar"), resumed.optimizer)
    resumed.schedule.step(first)
    assert_same(resumed.train(first, STEPS), Run(name).train(0, STEPS))


@pytest.mark.parametrize(("first", "then"), [("adamw", "stepruleadamw"), ("stepruleadamw", "adamw")])
def test_a_run_may_change_between_torch_and_ours_at_a_checkpoint(first: str, then: str, tmp_path: Path) -> None:
    begun, changed = Run(first), Run(then)
    begun.train(0, STEPS // 2, clip=MAX_NORM)
    timm.utils.CheckpointSaver(begun.model, begun.optimizer, checkpoint_dir=str(tmp_path)).save_checkpoint(epoch=2)
    models.resume_checkpoint(changed.model, str(tmp_path / "last.pth.tar"), changed.optimizer)
    changed.schedule.step(STEPS // 2)
    assert_close(changed.train(STEPS // 2, STEPS, clip=MAX_NORM), Run("adamw").train(0, STEPS, clip=MAX_NORM))
