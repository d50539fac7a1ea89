"""torch.optim.swa_utils: averaged weights of our runs are those of torch's, and resume."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn, update_bn
from torch_loop import PAIRS, batch, deviation, held, identical, loss_of, through_a_file

from steprule import board

pytestmark = [pytest.mark.cpu, pytest.mark.host("torch.optim.swa_utils")]

STEPS = 12
AVERAGES: dict[str, Callable[[torch.nn.Module], AveragedModel]] = {
    "SWA": AveragedModel,
    "SWA, all at once": lambda model: AveragedModel(model, multi_avg_fn=get_swa_multi_avg_fn()),
    "EMA": lambda model: AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True),
    "own": lambda model: AveragedModel(model, avg_fn=lambda average, new, _: 0.7 * average + 0.3 * new),
}


def network(dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    """Make a model whose buffers depend on the weights: what update_bn is for.

    No bias before the normalisation, which cancels it: its gradient is rounding noise, and Adam would scale that up.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [torch.nn.Linear(4, 8, bias=False), torch.nn.BatchNorm1d(8), torch.nn.Tanh(), torch.nn.Linear(8, 3)]
        return torch.nn.Sequential(*layers).to(dtype)


class Run:
    """A model, its optimiser, the average of its weights, and a rate that ends at a constant."""

    def __init__(self, make: Any, options: dict[str, Any], average: str) -> None:
        self.model = network()
        self.optimizer = make(self.model.parameters(), **options)
        self.average = AVERAGES[average](self.model)
        self.schedule = SWALR(self.optimizer, swa_lr=0.005, anneal_epochs=6)

    def parts(self) -> list[Any]:
        return [self.model, self.optimizer, self.average, self.schedule]

    def steps(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self.optimizer.zero_grad()
            loss_of(self.model, number).backward()
            self.optimizer.step()
            if number >= 3:
                self.average.update_parameters(self.model)
                self.schedule.step()


def averaged(run: Run) -> list[torch.Tensor]:
    return [value.detach().clone() for value in run.average.module.state_dict().values()]


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("pair", PAIRS)
def test_an_averaged_run_follows_that_of_torch_and_resumes_bit_for_bit(pair: str, average: str) -> None:
    ours, torchs, options = PAIRS[pair]
    own, twin, other = (Run(make, options, average) for make in (ours, torchs, ours))
    own.steps(range(STEPS // 2))
    twin.steps(range(STEPS // 2))
    saved = through_a_file([part.state_dict() for part in own.parts()])
    for part, state in zip(other.parts(), saved, strict=True):
        part.load_state_dict(state)
    for run in (own, twin, other):
        run.steps(range(STEPS // 2, STEPS))
        inputs = [batch(number)[0] for number in range(STEPS)]
        update_bn(inputs, run.average)
    assert own.optimizer.param_groups[0]["lr"] == twin.optimizer.param_groups[0]["lr"] == 0.005
    assert deviation(own.model.parameters(), twin.model.parameters()) <= 1e-12
    assert deviation(averaged(own), averaged(twin)) <= 1e-12
    assert deviation(own.average.parameters(), own.model.parameters()) > 1e-3
    assert identical(averaged(other), averaged(own))
    assert identical(held(other.optimizer), held(own.optimizer))


def test_an_average_does_not_follow_later_steps() -> None:
    """Its weights are copies: our kernel writes to addresses, which must be the model's alone."""
    run = Run(*PAIRS["AdamW"][::2], "SWA")
    run.steps(range(6))
    before = averaged(run)
    loss_of(run.model, 6).backward()
    run.optimizer.step()
    assert identical(averaged(run), before)


def test_a_model_set_to_its_average_is_stepped_on_from_there() -> None:
    """Weights may be copied into the model, or the model's data be replaced, between steps."""
    for replace in (False, True):
        runs = [Run(make, PAIRS["AdamW"][2], "EMA") for make in PAIRS["AdamW"][:2]]
        for run in runs:
            run.steps(range(6))
            with torch.no_grad():
                for parameter, value in zip(run.model.parameters(), run.average.module.parameters(), strict=True):
                    if replace:
                        parameter.data = value.detach().clone()
                    else:
                        parameter.copy_(value)
            run.steps(range(6, 10))
        assert deviation(runs[0].model.parameters(), runs[1].model.parameters()) <= 1e-12


def test_the_average_of_a_rule_with_look_ahead_is_taken_inside_at_iterate() -> None:
    """Stepped without closures, the model holds the point where the next gradient is taken, not θ."""
    model = network()
    optimizer = board.nesterov.optimizer(model.parameters(), lr=0.05)
    average = AveragedModel(model)
    iterates = []
    for number in range(5):
        optimizer.zero_grad()
        loss_of(model, number).backward()
        optimizer.step()
        with optimizer.at_iterate():
            average.update_parameters(model)
            iterates.append(copy.deepcopy(list(model.parameters())))
    means = [torch.stack([step[i].detach() for step in iterates]).mean(0) for i in range(len(iterates[0]))]
    assert deviation(average.module.parameters(), means) <= 1e-12
    assert deviation(iterates[-1], model.parameters()) > 1e-6
