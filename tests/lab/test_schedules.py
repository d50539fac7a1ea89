"""The factor of the learning rate at each iteration."""

import pytest
import torch

from steprule.lab.schedules import SCHEDULES

pytestmark = pytest.mark.null


def factors(name, count):
    return [SCHEDULES[name](iteration, count) for iteration in range(1, count + 1)]


def test_cosine_is_torchs_cosine_annealing():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50)
    seen = []
    for _ in range(50):
        seen.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert factors("cosine", 50) == pytest.approx(seen, rel=1e-9)


@pytest.mark.parametrize("count", [1, 2, 3, 19, 20, 1000])
def test_every_schedule_stays_between_nothing_and_the_learning_rate(count):
    for name in SCHEDULES:
        found = factors(name, count)
        assert all(0 < factor <= 1 for factor in found), name
        assert max(found) == 1


def test_a_warm_up_takes_the_first_twentieth():
    assert factors("warmup", 100) == pytest.approx([0.2, 0.4, 0.6, 0.8, *[1.0] * 96])
    both = factors("warmup-cosine", 100)
    assert both[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert both[5:] == pytest.approx(factors("cosine", 95))
    assert factors("constant", 3) == [1.0] * 3
