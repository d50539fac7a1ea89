"""Hugging Face Trainer: our optimisers under its groups, schedule, clipping, mixed precision and checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hosting import BF16, HYPER, MAX_NORM, OURS, assert_apart, assert_close, assert_same, weights

import steprule as sr
from steprule.errors import HyperparameterError

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

pytestmark = [pytest.mark.cpu, pytest.mark.host("Hugging Face Trainer")]

STEPS, HALF = 6, 3


class Sentences(torch.utils.data.Dataset):
    """A few random sentences of eight tokens."""

    def __init__(self) -> None:
        self.tokens = torch.randint(0, 32, (24, 8), generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.tokens[index], "labels": self.tokens[index]}


class PulledPlugError(Exception):
    """What ends an interrupted run."""


class PullsPlug(transformers.TrainerCallback):
    """End a run as soon as its first checkpoint is written."""

    def on_save(self, *_: Any, **__: Any) -> None:
        raise PulledPlugError


def model() -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=32, n_positions=8, n_embd=16, n_layer=1, n_head=2, bos_token_id=0,
                                     eos_token_id=0)  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def trainer(folder: Path, optimizer: type[torch.optim.Optimizer] | None, hyper: dict[str, Any] | None = None,
            max_norm: float = 0.0, callbacks: Any = (), optimizers: Any = (None, None), bf16: bool = False,
            on: Any = None) -> Any:  # fmt: skip
    """Make a Trainer with a schedule, dropout and two groups, that saves half-way; a max_norm of 0 is none."""
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), max_steps=STEPS, save_steps=HALF, per_device_train_batch_size=4, weight_decay=0.1,
        lr_scheduler_type="cosine", warmup_steps=2, max_grad_norm=max_norm, bf16=bf16, use_cpu=True, report_to="none",
        logging_strategy="no", disable_tqdm=True, dataloader_pin_memory=False)  # fmt: skip
    return transformers.Trainer(
        on or model(), arguments, train_dataset=Sentences(), callbacks=list(callbacks), optimizers=optimizers,
        optimizer_cls_and_kwargs=optimizer and (optimizer, {**HYPER, **(hyper or {})}))  # fmt: skip


def run(made: Any, resume: Path | None = None) -> dict[str, torch.Tensor]:
    made.train(resume_from_checkpoint=None if resume is None else str(resume / f"checkpoint-{HALF}"))
    assert made.state.global_step == STEPS
    return weights(made.model)


def interrupt(made: Any) -> None:
    with pytest.raises(PulledPlugError):
        made.train()
    assert made.state.global_step == HALF


@pytest.mark.parametrize("kind", OURS)
def test_clipping_in_the_step_gives_what_the_trainer_gives_with_torch_and_its_own(kind: str, tmp_path: Path) -> None:
    ours = run(trainer(tmp_path, OURS[kind], {"clip": MAX_NORM}))
    assert_close(ours, run(trainer(tmp_path, torch.optim.AdamW, max_norm=MAX_NORM)))
    assert_apart(ours, run(trainer(tmp_path, torch.optim.AdamW)))


@pytest.mark.parametrize("kind", OURS)
def test_the_trainers_clipping_and_autocast_to_bfloat16_give_what_they_give_with_torch(
    kind: str, tmp_path: Path
) -> None:
    ours = run(trainer(tmp_path, OURS[kind], max_norm=MAX_NORM, bf16=True))
    assert_close(ours, run(trainer(tmp_path, torch.optim.AdamW, max_norm=MAX_NORM, bf16=True)), BF16)
    assert_apart(ours, run(trainer(tmp_path, torch.optim.AdamW, max_norm=MAX_NORM)))


@pytest.mark.parametrize("kind", OURS)
def test_the_trainers_groups_decay_matrices_and_nothing_else(kind: str, tmp_path: Path) -> None:
    made = trainer(tmp_path, OURS[kind])
    before = weights(made.model)
    decaying, other = made.create_optimizer().param_groups
    assert (decaying["weight_decay"], other["weight_decay"]) == (0.1, 0.0)
    for parameter in made.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    made.optimizer.step()
    after = weights(made.model)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if before[name].ndim == 2}


def test_a_rule_without_decay_says_so_when_the_trainers_groups_have_one(tmp_path: Path) -> None:
    class BoardAdam(sr.Optimizer):
        def __init__(self, params: Any, **hyper: Any) -> None:
            super().__init__(params, sr.board.adam, **hyper)

    with pytest.raises(HyperparameterError, match=r"no weight decay, but group 0 asks for 0\.1"):
        run(trainer(tmp_path, BoardAdam))


@pytest.mark.parametrize("kind", OURS)
def test_an_interrupted_run_ends_bit_by_bit_where_it_would_have(kind: str, tmp_path: Path) -> None:
    hyper = {"clip": MAX_NORM}
    interrupt(trainer(tmp_path, OURS[kind], hyper, callbacks=[PullsPlug()]))
    resumed = run(trainer(tmp_path, OURS[kind], hyper), resume=tmp_path)
    assert_same(resumed, run(trainer(tmp_path / "whole", OURS[kind], hyper)))


ROUTED = {"hidden": sr.board.momentum(lr=0.1), "rest": sr.board.adam}


@pytest.mark.parametrize(
    "make",
    [
        lambda on, **own: sr.Optimizer(on, sr.board.adam, **own),
        lambda on, **own: sr.Optimizer(on, ROUTED, **own),
        sr.optim.Muon,
    ],
    ids=["a rule", "two rules by role", "Muon of the model"],
)
def test_a_run_with_an_optimiser_made_before_it_can_be_interrupted(make: Any, tmp_path: Path) -> None:
    """The Trainer takes an optimiser as it is, too; groups are then its maker's."""

    def made(folder: Path, callbacks: Any = ()) -> Any:
        on = model()
        optimizer = make(on, lr=1e-2, clip=MAX_NORM)
        return trainer(folder, None, callbacks=callbacks, optimizers=(optimizer, None), on=on)

    interrupt(made(tmp_path, [PullsPlug()]))
    assert_same(run(made(tmp_path), resume=tmp_path), run(made(tmp_path / "whole")))


@pytest.mark.parametrize(("first", "then"), [(torch.optim.AdamW, sr.optim.AdamW), (sr.optim.AdamW, torch.optim.AdamW)])
def test_a_run_may_change_between_torch_and_ours_at_a_checkpoint(first: Any, then: Any, tmp_path: Path) -> None:
    interrupt(trainer(tmp_path, first, max_norm=MAX_NORM, callbacks=[PullsPlug()]))
    changed = run(trainer(tmp_path, then, max_norm=MAX_NORM), resume=tmp_path)
    assert_close(changed, run(trainer(tmp_path / "whole", torch.optim.AdamW, max_norm=MAX_NORM)))
