"""torch.optim.lr_scheduler: every scheduler drives our optimisers as it drives torch's, and resumes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler
from torch_loop import PAIRS, RTOL, deviation, held, identical, loss_of, network, through_a_file

import steprule as sr
from steprule import board

pytestmark = [
    pytest.mark.cpu,
    pytest.mark.host("torch.optim.lr_scheduler"),
    # SequentialLR calls its own schedulers with the argument that torch deprecates.
    pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning"),
]

CYCLED = {"AdamW": True, "SGD": True, "a rule": False}
"""Those whose group has `momentum` or `betas`, which OneCycleLR and CyclicLR write to."""

Make = Callable[[torch.optim.Optimizer, bool], Any]

SCHEDULERS: dict[str, Make] = {
    "LambdaLR": lambda o, _: lr_scheduler.LambdaLR(o, lambda epoch: 1 / (1 + epoch)),
    "MultiplicativeLR": lambda o, _: lr_scheduler.MultiplicativeLR(o, lambda epoch: 0.9),
    "StepLR": lambda o, _: lr_scheduler.StepLR(o, 3, gamma=0.5),
    "MultiStepLR": lambda o, _: lr_scheduler.MultiStepLR(o, [2, 7], gamma=0.5),
    "ConstantLR": lambda o, _: lr_scheduler.ConstantLR(o, 0.5, total_iters=4),
    "LinearLR": lambda o, _: lr_scheduler.LinearLR(o, 0.1, total_iters=8),
    "ExponentialLR": lambda o, _: lr_scheduler.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o, _: lr_scheduler.PolynomialLR(o, total_iters=9, power=2.0),
    "CosineAnnealingLR": lambda o, _: lr_scheduler.CosineAnnealingLR(o, T_max=8),
    "CosineAnnealingWarmRestarts": lambda o, _: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=5),
    "CyclicLR": lambda o, cycled: lr_scheduler.CyclicLR(o, 0.001, 0.05, step_size_up=4, cycle_momentum=cycled),
    "OneCycleLR": lambda o, cycled: lr_scheduler.OneCycleLR(o, 0.05, total_steps=14, cycle_momentum=cycled),
    "ReduceLROnPlateau": lambda o, _: lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=2),
    "ChainedScheduler": lambda o, _: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.1, total_iters=3), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "SequentialLR": lambda o, _: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=3), lr_scheduler.ExponentialLR(o, 0.9)], milestones=[4]
    ),
}


class Run:
    """A model with its optimiser and scheduler."""

    def __init__(self, side: int, pair: str, scheduler: str, dtype: torch.dtype, *, tensor: bool) -> None:
        options = dict(PAIRS[pair][2])
        if tensor:
            options["lr"] = torch.tensor(options["lr"], dtype=dtype)
        self.dtype = dtype
        self.model = network(dtype)
        self.optimizer = PAIRS[pair][side](self.model.parameters(), **options)
        self.scheduler = SCHEDULERS[scheduler](self.optimizer, CYCLED[pair])

    def step(self, number: int) -> None:
        self.optimizer.zero_grad()
        loss_of(self.model, number, self.dtype).backward()
        self.optimizer.step()
        plateau = isinstance(self.scheduler, lr_scheduler.ReduceLROnPlateau)
        self.scheduler.step(1.0) if plateau else self.scheduler.step()

    def driven(self) -> list[Any]:
        """Return what schedulers write to, as numbers."""
        group = self.optimizer.param_groups[0]
        return [float(group["lr"]), group.get("betas"), group.get("momentum")]

    def saved(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }

    def load(self, saved: dict[str, Any]) -> None:
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])  # after the scheduler was made, which sets a rate itself
        self.scheduler.load_state_dict(saved["scheduler"])


def test_every_scheduler_that_torch_has_is_listed_here() -> None:
    found = {
        name
        for name, value in vars(lr_scheduler).items()
        if inspect.isclass(value) and issubclass(value, lr_scheduler.LRScheduler) and not name.startswith("_")
    }
    assert found | set(lr_scheduler.__all__) == {*SCHEDULERS, "LRScheduler"}


@pytest.mark.parametrize("tensor", [False, True], ids=["float", "tensor"])
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_scheduled_run_follows_that_of_torch_and_resumes_bit_for_bit(scheduler: str, pair: str, tensor: bool) -> None:
    dtype = torch.float64 if tensor or pair == "a rule" else torch.float32
    own, twin, other = (Run(side, pair, scheduler, dtype, tensor=tensor) for side in (0, 1, 0))
    seen = []
    for number in range(12):
        if number == 5:
            other.load(through_a_file(own.saved()))
        for run in (own, twin, *([other] if number >= 5 else [])):
            run.step(number)
        assert own.driven()[0] == twin.driven()[0]
        assert CYCLED[pair] is False or own.driven() == twin.driven()
        assert deviation(own.model.parameters(), twin.model.parameters()) <= RTOL[dtype]
        seen.append(own.driven())
    assert any(value != seen[0] for value in seen)
    assert isinstance(own.optimizer.param_groups[0]["lr"], torch.Tensor) is tensor
    assert other.driven() == own.driven()
    assert identical(held(other.optimizer), held(own.optimizer))


@sr.rule
def heavy_ball(theta, g, b, *, lr=0.1, momentum=0.9):
    b = momentum * b + g
    return theta - lr * b, b


@pytest.mark.parametrize("scheduler", ["CyclicLR", "OneCycleLR"])
def test_the_momentum_of_a_rule_that_calls_it_momentum_is_cycled(scheduler: str) -> None:
    models = [network(), network()]
    optimizers = [
        heavy_ball.optimizer(models[0].parameters(), lr=0.05, momentum=0.8),
        torch.optim.SGD(models[1].parameters(), lr=0.05, momentum=0.8),
    ]
    schedulers = [SCHEDULERS[scheduler](optimizer, True) for optimizer in optimizers]
    seen = set()
    for number in range(10):
        for model, optimizer, one in zip(models, optimizers, schedulers, strict=True):
            optimizer.zero_grad()
            loss_of(model, number).backward()
            optimizer.step()
            one.step()
        groups = [optimizer.param_groups[0] for optimizer in optimizers]
        assert [groups[0][key] for key in ("lr", "momentum")] == [groups[1][key] for key in ("lr", "momentum")]
        seen.add(groups[0]["momentum"])
    assert len(seen) > 3
    assert deviation(models[0].parameters(), models[1].parameters()) <= RTOL[torch.float64]


@pytest.mark.parametrize("scheduler", ["CyclicLR", "OneCycleLR"])
@pytest.mark.parametrize("program", [board.adam, board.momentum], ids=lambda program: program.name)
def test_cycling_what_a_rule_calls_otherwise_is_refused_by_torch_and_says_which_option(
    program: Any, scheduler: str
) -> None:
    """The board has `beta` or `beta1`; torch looks for `momentum` or `betas`, and only if it is to cycle them."""
    optimizer = program.optimizer(network().parameters())
    with pytest.raises(ValueError, match=r"must support momentum or beta1 with `?cycle_momentum"):
        SCHEDULERS[scheduler](optimizer, True)
    SCHEDULERS[scheduler](program.optimizer(network().parameters()), False)
