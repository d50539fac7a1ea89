"""What the page says of theory is what mathematics says, and what trajectories of the library's own rules do."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import steprule as sr

mini_racer = pytest.importorskip("py_mini_racer", reason="needs V8: pip install mini-racer")

pytestmark = pytest.mark.null

WEB = Path(sr.__file__).parent / "play" / "web"
MU, L = 0.05, 2.5
SETTINGS = [(0.3, 0.5), (1.0, 0.9), (2.0, 0.8)]
RULES = {
    "gd": sr.board.gd,
    "momentum": sr.board.momentum,
    "nesterov": sr.board.nesterov,
    "nesterov-board": sr.board.nesterov(look_ahead="board"),
    "nesterov-implicit": sr.board.nesterov(look_ahead="implicit"),
}


@pytest.fixture(scope="module")
def value():
    engine = mini_racer.MiniRacer()
    engine.eval((WEB / "theory.js").read_text(encoding="utf-8"))
    return lambda expression: json.loads(engine.eval(f"JSON.stringify({expression})"))


def trajectory(rule, steps, **hyper):
    """Minimise ½ θᵀAθ with eigenvalues μ and L by the library itself, each step with a closure."""
    theta = torch.nn.Parameter(torch.tensor([1.0, -0.7], dtype=torch.float64))
    optimizer = rule.optimizer([theta], backend="eager", **hyper)
    curve, points = torch.tensor([MU, L], dtype=torch.float64), [theta.tolist()]

    def loss():
        theta.grad = curve * theta.detach()
        return 0.5 * (curve * theta.detach() ** 2).sum()

    for _ in range(steps):
        optimizer.step(loss)
        points.append(theta.tolist())
    return points


@pytest.mark.parametrize("method", RULES)
@pytest.mark.parametrize(("lr", "beta"), SETTINGS)
def test_a_step_of_the_library_is_the_matrix_of_theory(value, method, lr, beta):
    """From θ after one step, m is known; the next must be what the matrix says of it."""
    lr = min(lr, 0.9 / (L * (1 - beta))) if method == "nesterov-implicit" else lr  # where its iteration contracts
    hyper = {"lr": lr} if method == "gd" else {"lr": lr, "beta": beta}
    points = trajectory(RULES[method], 2, **hyper)
    for axis, eigenvalue in enumerate((MU, L)):
        start, first, second = (point[axis] for point in points)
        matrix = np.array(value(f"steprule.theory.matrix('{method}', {eigenvalue}, {json.dumps(hyper)})"))
        once = matrix @ [start, 0.0]
        assert once[0] == pytest.approx(first, abs=1e-13)
        assert (matrix @ once)[0] == pytest.approx(second, abs=1e-13)
        told = value(f"steprule.theory.radius('{method}', {eigenvalue}, {json.dumps(hyper)})")
        assert told == pytest.approx(np.abs(np.linalg.eigvals(matrix)).max(), abs=1e-12)


@pytest.mark.parametrize("method", RULES)
def test_the_rate_that_is_seen_is_the_rate_that_theory_gives(value, method):
    lr, beta = 0.6, 0.7
    hyper = {"lr": lr} if method == "gd" else {"lr": lr, "beta": beta}
    points = trajectory(RULES[method], 40, **hyper)
    seen = value(f"steprule.theory.measured({json.dumps(points)})")
    assert seen == pytest.approx(value(f"steprule.theory('{method}', {MU}, {L}, {json.dumps(hyper)}).factor"), abs=1e-6)


def test_a_minimum_elsewhere_is_taken_off_and_nothing_is_seen_of_what_stands_still(value):
    moved = [[x + 3, y - 1] for x, y in trajectory(sr.board.momentum, 40, lr=0.6, beta=0.7)]
    factor = value(f"steprule.theory('momentum', {MU}, {L}, {{lr: 0.6, beta: 0.7}}).factor")
    assert value(f"steprule.theory.measured({json.dumps(moved)}, {{optimum: [3, -1]}})") == pytest.approx(
        factor, abs=1e-6
    )
    assert value("steprule.theory.measured([[0, 0], [0, 0], [0, 0], [0, 0], [0, 0]])") is None
    assert value("steprule.theory.measured([[1, 1]])") is None


@pytest.mark.parametrize("condition", [1.0, 4.0, 50.0, 1000.0])
def test_best_settings_reach_their_factors_and_no_neighbour_is_better(value, condition):
    """The classical factors, written down anew; a little beside, with η or with β, is worse."""
    mu, top = 2.0, 2.0 * condition
    root, wide = np.sqrt(condition), np.sqrt(3 * condition + 1)
    known = {"gd": (condition - 1) / (condition + 1), "momentum": (root - 1) / (root + 1), "nesterov": 1 - 2 / wide}
    for method, factor in known.items():
        best = value(f"steprule.theory('{method}', {mu}, {top}, {{lr: 0.1, beta: 0.5}}).best")
        assert best["factor"] == pytest.approx(factor, abs=1e-12)

        def at(numbers, method=method):
            return value(f"steprule.theory('{method}', {mu}, {top}, {json.dumps(numbers)}).factor")

        hyper = {name: best[name] for name in ("lr", "beta") if name in best}
        assert at(hyper) == pytest.approx(factor, abs=1e-6)  # two roots meet there: half of the digits
        for name in hyper:
            # η is Polyak's over 1 − β, so its neighbours in β keep η(1 − β).
            for times in (0.98, 1.02):
                beside = dict(hyper, **{name: hyper[name] * times})
                if name == "beta":
                    beside["lr"] = hyper["lr"] * (1 - hyper["beta"]) / (1 - beside["beta"])
                assert at(beside) >= factor - 1e-6


def test_the_greatest_rate_is_where_convergence_ends(value):
    assert value(f"steprule.theory('gd', {MU}, {L}, {{lr: 0.1}}).limit") == pytest.approx(2 / L, rel=1e-9)
    # Heavy ball converges for η(1−β)L < 2(1 + β).
    told = value(f"steprule.theory('momentum', {MU}, {L}, {{lr: 0.1, beta: 0.9}}).limit")
    assert told == pytest.approx(2 * 1.9 / (0.1 * L), rel=1e-9)
    for lr, converges in ((0.99 * told, True), (1.01 * told, False)):
        assert value(f"steprule.theory('momentum', {MU}, {L}, {{lr: {lr}, beta: 0.9}}).converges") is converges
    # The implicit step converges whatever its rate.
    assert value(f"String(steprule.theory('nesterov-implicit', {MU}, {L}, {{lr: 1, beta: 0.9}}).limit)") == "Infinity"


def test_where_there_is_no_theory_none_is_told(value):
    for told in (f"'adam', {MU}, {L}", f"'momentum', 0, {L}", "'momentum', 2, 1", f"'toString', {MU}, {L}"):
        assert value(f"steprule.theory({told}, {{lr: 0.1, beta: 0.9}})") is None
