"""Steps in the backward pass: by one optimiser of ours, or one a parameter; gradients are freed as they are used."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import StepLR
from torch_loop import PAIRS, deviation, held, identical, loss_of, network, through_a_file, train

pytestmark = [
    pytest.mark.cpu,
    pytest.mark.host("optimizer-in-backward"),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),  # importing torch.distributed.optim
]

STEPS = 8


class Hooked:
    """A model whose parameters step themselves through `register_post_accumulate_grad_hook`."""

    def __init__(self, make: Any, options: dict[str, Any]) -> None:
        self.model = network()
        self.optimizers = {parameter: make([parameter], **options) for parameter in self.model.parameters()}
        self.alive: list[int] = []
        self.gradients: list[weakref.ref[torch.Tensor]] = []
        for parameter in self.model.parameters():
            parameter.register_post_accumulate_grad_hook(self._step)

    def _step(self, parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        self.gradients.append(weakref.ref(parameter.grad))
        self.alive.append(sum(gradient() is not None for gradient in self.gradients))
        self.optimizers[parameter].step()
        self.optimizers[parameter].zero_grad()

    def all(self) -> list[torch.optim.Optimizer]:
        return list(self.optimizers.values())

    def steps(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            loss_of(self.model, number).backward()


class Applied(Hooked):
    """The same, by torch's own function."""

    def __init__(self, make: Any, options: dict[str, Any]) -> None:
        from torch.distributed.optim import _apply_optimizer_in_backward

        self.model = network()
        _apply_optimizer_in_backward(make, self.model.parameters(), options)

    def all(self) -> list[torch.optim.Optimizer]:
        from torch.distributed.optim import _get_in_backward_optimizers

        return _get_in_backward_optimizers(self.model)


class Released(Hooked):
    """The same, by one optimiser of ours for all parameters."""

    def __init__(self, make: Any, options: dict[str, Any]) -> None:
        self.model = network()
        self.optimizer = make(self.model.parameters(), **options)
        self.optimizer.step_in_backward()

    def all(self) -> list[torch.optim.Optimizer]:
        return [self.optimizer]

    def steps(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            super().steps([number])
            self.optimizer.step()


@pytest.mark.parametrize("way", [Hooked, Applied, Released])
@pytest.mark.parametrize("pair", PAIRS)
def test_stepping_in_the_backward_pass_is_as_stepping_after_it_and_resumes_bit_for_bit(
    pair: str, way: type[Hooked]
) -> None:
    ours, torchs, options = PAIRS[pair]
    own, other = way(ours, options), way(ours, options)
    twin = (Hooked if way is Released else way)(torchs, options)
    plain = network()
    after = ours(plain.parameters(), **options)
    train(plain, after, range(STEPS))
    own.steps(range(STEPS // 2))
    twin.steps(range(STEPS))
    saved = through_a_file([own.model.state_dict(), *(optimizer.state_dict() for optimizer in own.all())])
    for part, state in zip([other.model, *other.all()], saved, strict=True):
        part.load_state_dict(state)
    own.steps(range(STEPS // 2, STEPS))
    other.steps(range(STEPS // 2, STEPS))
    assert all(parameter.grad is None for parameter in own.model.parameters())
    assert deviation(own.model.parameters(), twin.model.parameters()) <= 1e-12
    assert identical(list(own.model.parameters()), list(plain.parameters()))
    for a, b in zip(own.all(), other.all(), strict=True):
        assert identical(held(a), held(b))


@pytest.mark.parametrize("pair", PAIRS)
def test_only_one_gradient_is_alive_at_a_time(pair: str) -> None:
    """That is the point of stepping there; an optimiser that kept its gradient until the next step would spoil it."""
    run = Hooked(PAIRS[pair][0], PAIRS[pair][2])
    run.steps(range(3))
    assert run.alive == [1] * (3 * len(run.optimizers))
    assert not any(gradient() is not None for gradient in run.gradients)


@pytest.mark.parametrize("backend", ["numba_cpu", "eager"])
def test_clearing_the_gradients_frees_their_memory(backend: str) -> None:
    """In an ordinary loop too: else the next forward and backward pass run beside the old gradients."""
    model = network()
    optimizer = PAIRS["AdamW"][0](model.parameters(), backend=backend)
    for number in range(3):
        loss_of(model, number).backward()
        gradients = [weakref.ref(parameter.grad) for parameter in model.parameters()]
        optimizer.step()
        optimizer.zero_grad()
        assert not any(gradient() is not None for gradient in gradients)


def test_rates_may_be_scheduled_for_each_parameter() -> None:
    sides = [Hooked(make, PAIRS["AdamW"][2]) for make in PAIRS["AdamW"][:2]]
    for side in sides:
        schedules = [StepLR(optimizer, index + 1) for index, optimizer in enumerate(side.all())]
        for number in range(STEPS):
            side.steps([number])
            for schedule in schedules:
                schedule.step()
    assert deviation(sides[0].model.parameters(), sides[1].model.parameters()) <= 1e-12
