"""The lab's runs are those of a plain PyTorch loop with the same seeds, which is written out here."""

import pytest
import torch
from torch import nn

from steprule.lab.budget import Budget
from steprule.lab.clips import Clip
from steprule.lab.data import digits
from steprule.lab.methods import Method
from steprule.lab.runs import RunSpec
from steprule.lab.tasks import TaskSpec
from steprule.lab.training import train

pytestmark = pytest.mark.cpu

ITERATIONS, BATCH = 68, 32  # two epochs of the 1,077 digits


def plain(seed, make, *, clip=None, cosine=False):
    """Train in plain PyTorch; return (training loss, validation loss, accuracy) after each iteration; test."""
    data = digits()
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = make(list(model.parameters()))
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, ITERATIONS) if cosine else None
    generator = torch.Generator().manual_seed(seed)
    seen, done = [], 0
    while done < ITERATIONS:
        for indices in torch.randperm(1077, generator=generator).split(BATCH):
            model.zero_grad()
            loss = nn.functional.cross_entropy(model(data.train.inputs[indices]), data.train.labels[indices])
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            done += 1
            seen.append((loss.item(), *scored(model, data.validation)))
    return seen, scored(model, data.test)


def scored(model, split):
    with torch.no_grad():
        outputs = model(split.inputs)
        right = outputs.argmax(dim=1) == split.labels
        return nn.functional.cross_entropy(outputs, split.labels).item(), right.double().mean().item()


def in_the_lab(seed, name, lr, **arm):
    budget = Budget(epochs=None, iterations=ITERATIONS, batch_size=BATCH)
    return train(RunSpec(TaskSpec("digits-mlp"), Method(name, **arm), lr, seed, budget))


def matched(result, seen):
    """The lab's losses and scores beside those of the loop; the lab's training loss is a mean since its last look."""
    before = 0
    for point in result.curve[1:]:
        losses = [loss for loss, _, _ in seen[before : point.iteration]]
        yield point, (sum(losses) / len(losses), *seen[point.iteration - 1][1:])
        before = point.iteration


class ByHand:
    """The update of one parameter, written out; `kept` is what the rule remembers of it."""

    def __init__(self, update, slots, parameters):
        self.update, self.parameters = update, parameters
        self.kept = [[torch.zeros_like(parameter) for _ in range(slots)] for parameter in parameters]

    @torch.no_grad()
    def step(self):
        for parameter, kept in zip(self.parameters, self.kept, strict=True):
            parameter -= self.update(parameter.grad, *kept)


def sgd(g):
    return 0.3 * g


def momentum(g, m):
    m.mul_(0.9).add_(0.1 * g)
    return 0.5 * m


def adam(g, m, s):
    m.mul_(0.9).add_(0.1 * g)
    s.mul_(0.99).add_(0.01 * g**2)
    return 0.01 * m / (s + 1e-8).sqrt()


BOARD = {"sgd": (0.3, sgd, 0), "momentum": (0.5, momentum, 1), "adam": (0.01, adam, 2)}


@pytest.mark.parametrize("seed", [0, 1, 104])
@pytest.mark.parametrize("name", BOARD)
def test_the_boards_rules_train_as_a_plain_loop_does(name, seed):
    lr, update, slots = BOARD[name]
    result = in_the_lab(seed, name, lr)
    seen, test = plain(seed, lambda parameters: ByHand(update, slots, parameters))
    for point, (training, validation, score) in matched(result, seen):
        assert point.training_loss == pytest.approx(training, rel=1e-5)
        assert point.validation_loss == pytest.approx(validation, rel=1e-5)
        assert point.score == score
    assert (result.test_loss, result.test_score) == pytest.approx(test, rel=1e-5)


@pytest.mark.parametrize("seed", [0, 1, 104])
def test_adam_of_torch_and_ours_take_the_same_course(seed):
    result = in_the_lab(seed, "steprule.optim:Adam", 0.01)
    seen, test = plain(seed, lambda parameters: torch.optim.Adam(parameters, lr=0.01))
    for point, (training, validation, _) in matched(result, seen):
        assert (point.training_loss, point.validation_loss) == pytest.approx((training, validation), rel=1e-4)
    assert result.test_loss == pytest.approx(test[0], rel=1e-4)


@pytest.mark.parametrize("seed", [0, 1, 104])
@pytest.mark.parametrize("clip", [None, 0.3])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_an_optimiser_of_torch_trains_as_a_plain_loop_does_bit_for_bit(seed, clip, schedule):
    clips = () if clip is None else (Clip("clip_global_norm", clip),)
    result = in_the_lab(seed, "torch.optim:SGD", 0.1, hyper=(("momentum", 0.9),), clips=clips, schedule=schedule)
    seen, test = plain(
        seed,
        lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
        clip=clip,
        cosine=schedule == "cosine",
    )
    compare = (
        pytest.approx if schedule == "cosine" else lambda value, rel: value
    )  # torch computes a cosine step by step
    for point, expected in matched(result, seen):
        assert (point.training_loss, point.validation_loss, point.score) == compare(expected, rel=1e-5)
    assert (result.test_loss, result.test_score) == compare(test, rel=1e-5)


@pytest.mark.parametrize("seed", [0, 1, 104])
def test_adamw_of_torch_in_the_lab_is_a_plain_loop_bit_for_bit(seed):
    result = in_the_lab(seed, "torch.optim:AdamW", 0.01)
    seen, test = plain(seed, lambda parameters: torch.optim.AdamW(parameters, lr=0.01))
    for point, expected in matched(result, seen):
        assert (point.training_loss, point.validation_loss, point.score) == expected
    assert (result.test_loss, result.test_score) == test
