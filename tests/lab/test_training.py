import math

import pytest
import torch
from torch import nn

from steprule.lab import network
from steprule.lab.budget import Budget
from steprule.lab.data import batches, digits
from steprule.lab.methods import Method
from steprule.lab.network import accumulate
from steprule.lab.runs import RunSpec
from steprule.lab.tasks import TaskSpec
from steprule.lab.tasks.base import ACCURACY
from steprule.lab.training import index_plan, train

SMALL = TaskSpec(hidden=(16,))


def spec(name="sgd", lr=0.1, seed=3, phase="report", **budget):
    budget = {"epochs": None, "iterations": 30, **budget}
    return RunSpec(SMALL, Method(name), lr, seed, Budget(**budget), phase)


def plain_network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


@pytest.mark.null
def test_a_seed_draws_the_weights_that_plain_pytorch_draws():
    ours, plain = SMALL.build().model(7), plain_network(7)
    for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.null
def test_drawing_a_network_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    SMALL.build().model(7)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.null
def test_the_batch_order_is_one_permutation_an_epoch():
    generator = torch.Generator().manual_seed(5)
    drawn = batches(10, 4, seed=5)
    for _ in range(2):
        epoch = [next(drawn) for _ in range(3)]
        assert [len(batch) for batch in epoch] == [4, 4, 2]
        assert torch.equal(torch.cat(epoch), torch.randperm(10, generator=generator))


@pytest.mark.null
def test_the_split_shares_no_example_and_loses_none():
    data = digits()
    assert [len(part) for part in (data.train, data.validation, data.test)] == [1077, 360, 360]
    for part in (data.train, data.validation, data.test):
        shares = torch.bincount(part.labels).double() / len(part)
        assert shares.min() > 0.09
        assert 0 <= part.inputs.min() <= part.inputs.max() == 1


@pytest.mark.cpu
def test_an_sgd_run_is_a_plain_pytorch_loop():
    result = train(spec(batch_size=50))
    model, train_set, validation = plain_network(3), digits().train, digits().validation
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=False)
    generator = torch.Generator().manual_seed(3)
    order = torch.cat([torch.randperm(1077, generator=generator) for _ in range(2)])
    starts = [*range(0, 1077, 50)]
    plan = [order[start : min(start + 50, 1077)] for start in starts]
    plan += [order[1077 + start : min(1077 + start + 50, 2154)] for start in starts]
    expected = []
    for indices in plan[:30]:
        loss = nn.functional.cross_entropy(model(train_set.inputs[indices]), train_set.labels[indices])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            seen = nn.functional.cross_entropy(model(validation.inputs), validation.labels)
        expected.append((loss.item(), seen.item()))
    curve = result.curve[1:]
    assert [point.iteration for point in curve] == list(range(1, 31))
    assert [point.training_loss for point in curve] == pytest.approx([loss for loss, _ in expected], rel=1e-5)
    assert [point.validation_loss for point in curve] == pytest.approx([seen for _, seen in expected], rel=1e-5)


@pytest.mark.null
def test_a_gradient_accumulated_in_chunks_is_the_gradient_of_the_whole(monkeypatch):
    task, train_set = SMALL.build(), digits().train
    inputs = train_set.inputs.double()
    model = task.model(0).double()
    loss = task.loss(model(inputs), train_set.labels)
    whole = torch.autograd.grad(loss, list(model.parameters()))
    monkeypatch.setattr(network, "CHUNK", 100)
    assert accumulate(model, task, inputs, train_set.labels) == pytest.approx(loss.item(), rel=1e-12)
    for parameter, expected in zip(model.parameters(), whole, strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-11, atol=1e-14)


@pytest.mark.null
def test_an_epoch_of_gd_is_one_iteration_on_everything():
    plan = list(index_plan(spec("gd", epochs=3, iterations=None), 10))
    assert len(plan) == 3
    assert all(torch.equal(indices, torch.arange(10)) for indices in plan)


@pytest.mark.null
def test_ten_thousand_objects_in_batches_of_ten_are_a_thousand_iterations_an_epoch():
    budget = Budget(epochs=2, batch_size=10)
    assert budget.count(10_000, full_batch=False) == 2000
    assert budget.count(10_000, full_batch=True) == 2
    assert Budget(epochs=None, iterations=7).count(10_000, full_batch=False) == 7


@pytest.mark.cpu
@pytest.mark.parametrize("name", ["sgd", "gd"])
def test_final_full_batch_adds_exactly_one_iteration_on_everything(name):
    usual, longer = train(spec(name, iterations=5)), train(spec(name, iterations=5, final_full_batch=True))
    assert (usual.iterations, longer.iterations) == (5, 6)
    assert longer.epochs == pytest.approx(usual.epochs + 1)
    assert longer.curve[:-1] == usual.curve
    plan = list(index_plan(spec(name, iterations=5, final_full_batch=True), 1077))
    assert torch.equal(plan[-1], torch.arange(1077))


@pytest.mark.cpu
def test_a_run_whose_loss_is_not_finite_is_stopped_and_has_diverged():
    result = train(spec(lr=1e30))
    assert result.status == "diverged"
    assert result.iterations < 30
    assert result.validation_loss == math.inf
    assert result.reason


@pytest.mark.cpu
def test_a_run_that_ends_above_its_start_has_diverged():
    result = train(spec("adam", lr=10.0))
    assert math.isfinite(result.final_loss)
    assert result.final_loss > result.initial_loss
    assert result.status == "diverged"


@pytest.mark.cpu
def test_a_run_repeats_itself_exactly():
    first, second = (train(spec("nesterov")) for _ in range(2))
    assert first.curve == second.curve
    assert first.test_score == second.test_score


@pytest.mark.cpu
def test_nesterov_is_evaluated_at_theta_not_at_the_look_ahead_point():
    # One step from m = 0: g is taken at θ₀, so θ₁ = θ₀ − η (1 − β) g, wherever the stored parameters are.
    result = train(spec("nesterov", lr=1.0, iterations=1))
    model, train_set, validation = plain_network(3), digits().train, digits().validation
    indices = torch.randperm(1077, generator=torch.Generator().manual_seed(3))[:32]
    loss = nn.functional.cross_entropy(model(train_set.inputs[indices]), train_set.labels[indices])
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter -= 0.1 * gradient
        expected = nn.functional.cross_entropy(model(validation.inputs), validation.labels).item()
    assert result.curve[-1].validation_loss == pytest.approx(expected, rel=1e-6)


@pytest.mark.cpu
def test_a_tuning_run_never_meets_the_test_set():
    result = train(spec(phase="tuning", iterations=2))
    assert result.test_score is None
    assert result.test_loss is None


@pytest.mark.cpu
def test_the_first_evaluation_at_the_target_counts():
    result = train(spec("adam", lr=0.01, iterations=60))
    reached = result.first_met(ACCURACY, 0.5).iteration
    before = [point.score for point in result.curve if point.iteration < reached]
    assert 0 < reached <= 60
    assert max(before) < 0.5
    assert result.first_met(ACCURACY, 1.1) is None
    assert result.first_met(ACCURACY, None) is None
