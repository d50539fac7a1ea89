"""The two convex tasks: an optimum known exactly, and what theory says."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from steprule.lab.budget import Budget
from steprule.lab.methods import Method
from steprule.lab.runs import RunSpec
from steprule.lab.tasks import TaskSpec
from steprule.lab.tasks.cancer import optimum
from steprule.lab.tasks.quadratic import curvatures
from steprule.lab.training import train


def gradient_at(model, task):
    loss = task.loss(model(task.data.train.inputs), task.data.train.labels)
    return loss.item(), torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])


def test_the_gradient_vanishes_at_the_optimum_of_the_tumours():
    task = TaskSpec("cancer-logreg").build()
    value, theta = optimum()
    model = task.model(0)
    with torch.no_grad():
        model.linear.weight.copy_(torch.from_numpy(theta[None, :-1]))
        model.linear.bias.copy_(torch.from_numpy(theta[-1:]))
    loss, gradient = gradient_at(model, task)
    assert gradient.norm() < 1e-10
    assert loss == pytest.approx(value, abs=1e-14)
    assert task.optimum == value


def test_no_point_near_the_optimum_is_lower():
    task = TaskSpec("cancer-logreg").build()
    value, theta = optimum()
    model, generator = task.model(0), np.random.default_rng(0)
    for _ in range(20):
        near = torch.from_numpy(theta + 1e-3 * generator.standard_normal(len(theta)))
        with torch.no_grad():
            model.linear.weight.copy_(near[None, :-1])
            model.linear.bias.copy_(near[-1:])
        assert gradient_at(model, task)[0] > value


def test_gradient_descent_comes_down_to_the_optimum_and_never_below():
    task = TaskSpec("cancer-logreg").build()
    budget = Budget(epochs=2000, batch_size=341)
    result = train(RunSpec(TaskSpec("cancer-logreg"), Method("gd"), 2.0, 0, budget))
    distances = [point.training_loss - task.optimum for point in result.curve]
    assert min(distances) > -1e-14
    assert all(later <= before + 1e-15 for before, later in pairwise(distances))
    assert distances[-1] < 1e-9 < distances[1]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("condition", [10.0, 100.0])
def test_a_quadratic_has_the_condition_number_that_was_asked_for(condition, seed):
    spec = TaskSpec("quadratic", condition=condition)
    task = spec.build()
    model = task.model(seed)
    (start,) = model.parameters()

    def height(point):
        outputs = torch.func.functional_call(model, {"point": point}, (task.data.train.inputs,))
        return task.loss(outputs, task.data.train.labels)

    hessian = torch.autograd.functional.hessian(height, start)
    found = torch.linalg.eigvalsh(hessian)
    torch.testing.assert_close(found, curvatures(condition))
    assert found[-1] / found[0] == pytest.approx(condition)
    assert height(start).item() == pytest.approx(1.0)
    assert hessian.diagonal().sub(hessian.diagonal().mean()).abs().max() < 0.5  # its axes are turned


@pytest.mark.parametrize("condition", [10.0, 100.0])
def test_gradient_descent_falls_as_theory_says(condition):
    """Below the line at every point, and in the end as steep as the line."""
    spec = TaskSpec("quadratic", condition=condition)
    task, steps = spec.build(), int(30 * condition)
    lr = 2 / (1 + 1 / condition)
    result = train(RunSpec(spec, Method("gd"), lr, 3, Budget(epochs=steps, batch_size=100)))
    theory, other = task.theory
    lines = [(theory.loss(point.iteration), point.training_loss) for point in result.curve]
    assert all(seen <= said * (1 + 1e-9) for said, seen in lines)
    (said_before, seen_before), (said, seen) = lines[-10], lines[-1]
    assert seen / seen_before == pytest.approx(said / said_before, rel=1e-2)
    assert other.loss(10) < theory.loss(10) < theory.loss(0) == other.loss(0) == 1.0


def test_heavy_ball_falls_as_theory_says():
    """Momentum with Polyak's step and β: the board averages, so its step is his divided by 1 − β."""
    condition = 100.0
    root = condition**0.5
    beta = ((root - 1) / (root + 1)) ** 2
    lr = 4 / (1 + 1 / root) ** 2 / (1 - beta)
    spec = TaskSpec("quadratic", condition=condition)
    method = Method("momentum", (("beta", beta),))
    result = train(RunSpec(spec, method, lr, 3, Budget(epochs=60, batch_size=100)))
    _, theory = spec.build().theory
    # The rate is asymptotic: it holds up to a factor that grows with the square of the steps.
    steps = result.curve[-1].iteration
    assert theory.loss(steps) < result.curve[-1].training_loss < steps**2 * theory.loss(steps)
