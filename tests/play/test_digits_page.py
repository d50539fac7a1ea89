"""The page trains on the digits as `steprule train --parameters float64` does: sets, weights, batches and losses."""

import json
from pathlib import Path

import numpy as np
import pytest
from torch.nn.functional import cross_entropy

import steprule
from steprule.lab.budget import Budget
from steprule.lab.data import digits
from steprule.lab.methods import Method
from steprule.lab.network import kept_in
from steprule.lab.runs import RunSpec
from steprule.lab.tasks import TaskSpec
from steprule.lab.training import evaluation_points, index_plan, train
from steprule.play.data import packed

mini_racer = pytest.importorskip("py_mini_racer", reason="needs V8: pip install mini-racer")

pytestmark = pytest.mark.null

WEB = Path(steprule.__file__).parent / "play" / "web"
SCRIPTS = ("random.js", "data-digits.js", "data-model.js", "data-training.js")
SPEC = {"model": "mlp", "hidden": 16, "batch": 32, "budget": "epochs", "epochs": 1, "iterations": 1, "seed": 0}

# The board's methods as one writes them by hand: this file is about data, weights, batches and gradients.
OPTIMIZERS = """
steprule.optimizer = (rule) => ({
  start(thetas) { this.thetas = thetas; this.m = thetas.map((theta) => new Float64Array(theta.length)); },
  step(gradient, { lr, beta }) {
    const { gradients } = gradient(this.thetas);
    this.thetas.forEach((theta, place) => theta.forEach((_, at) => {
      const m = this.m[place];
      m[at] = (1 - beta) * gradients[place][at] + beta * m[at];
      theta[at] -= lr * m[at];
    }));
  },
});
const sets = steprule.data.unpack(PACKED);
function run(spec, hypers, full) {
  const made = new steprule.data.Training(sets, spec, { rule: null, hypers, full });
  const losses = [], ends = [];
  for (let loss; (loss = made.next()) !== null; ) { losses.push(loss); if (made.epochEnds) ends.push(made.done); }
  const evaluated = ["train", "validation", "test"].map((name) => made.evaluate(name));
  const after = evaluated.map((one) => [one.loss, one.accuracy]);
  return { losses, ends, after, epochs: made.epochs, trouble: made.trouble, counts: made.counts };
}
"""


@pytest.fixture(scope="module")
def value():
    engine = mini_racer.MiniRacer()
    for name in SCRIPTS:
        engine.eval((WEB / name).read_text(encoding="utf-8"))
    engine.eval(OPTIMIZERS.replace("PACKED", json.dumps(packed())))
    return lambda expression: json.loads(engine.eval(f"JSON.stringify({expression})"))


def told(**changes):
    return json.dumps({"final": False, **SPEC, **changes})


def as_spec(changes, lr=0.5, beta=0.9):
    """The same run for the lab."""
    of = {"final": False, **SPEC, **changes}
    task = TaskSpec("digits-mlp", hidden=(of["hidden"],)) if of["model"] == "mlp" else TaskSpec("digits-logreg")
    counted = {of["budget"]: of[of["budget"]]}
    name, hyper = ("gd", ()) if of.get("full") else ("momentum", (("beta", beta),))
    method = Method(name, (*hyper, ("backend", "eager")), parameters="float64")
    budget = Budget(**{"epochs": None, **counted}, batch_size=of["batch"], final_full_batch=of["final"])
    return RunSpec(task, method, lr, of["seed"], budget)


def test_the_packed_digits_are_those_of_the_lab_and_few_letters(value):
    made = json.dumps(packed())
    assert len(made) < 130_000
    for name in ("train", "validation", "test"):
        own = getattr(digits(), name)
        assert value(f"[...sets.{name}.inputs]") == own.inputs.double().ravel().tolist()
        assert value(f"[...sets.{name}.labels]") == own.labels.tolist()
        assert value(f"sets.{name}.size") == len(own)


@pytest.mark.parametrize("seed", [0, 1, 2**31])
@pytest.mark.parametrize("hidden", [None, 16, 33])
def test_weights_are_those_that_torch_draws_bit_for_bit(value, seed, hidden):
    spec = TaskSpec("digits-logreg") if hidden is None else TaskSpec("digits-mlp", hidden=(hidden,))
    drawn = kept_in(spec.build().model(seed), "float64")
    sizes = [64, 10] if hidden is None else [64, hidden, 10]
    got = value(f"new steprule.data.Network({sizes}).draw({seed}).map((one) => [...one])")
    assert got == [parameter.detach().ravel().tolist() for parameter in drawn.parameters()]
    assert value(f"new steprule.data.Network({sizes}).shapes") == [list(one.shape) for one in drawn.parameters()]


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 2},
        {"budget": "iterations", "iterations": 70, "final": True},
        {"batch": 1077, "epochs": 3, "seed": 5},
        {"batch": 10, "budget": "iterations", "iterations": 3},
        {"full": True, "epochs": 3, "final": True},
    ],
)
def test_batches_and_counts_are_those_of_the_lab(value, changes):
    """Several epochs, a last batch that is smaller, one batch for all, and the board's final iteration."""
    spec = as_spec(changes)
    full, size = "true" if changes.get("full") else "false", len(digits().train)
    expected = [indices.tolist() for indices in index_plan(spec, size)]
    assert value(f"[...steprule.data.order({size}, {told(**changes)}, {full})].map((one) => [...one])") == expected
    counts = value(f"steprule.data.counts({size}, {told(**changes)}, {full})")
    assert counts["total"] == len(expected)
    assert counts["iterations"] == spec.budget.count(size, full_batch=full == "true")


def test_the_boards_own_example_is_counted_as_on_the_board(value):
    """10,000 objects in batches of 10 are 1,000 iterations an epoch, whichever is the budget."""
    for changes in ({"epochs": 3}, {"budget": "iterations", "iterations": 3000}):
        counts = value(f"steprule.data.counts(10000, {told(batch=10, **changes)})")
        assert (counts["perEpoch"], counts["iterations"], counts["epochs"]) == (1000, 3000, 3)


@pytest.mark.parametrize("hidden", [None, 16])
def test_gradients_by_hand_are_those_of_autograd(value, hidden):
    spec = TaskSpec("digits-logreg") if hidden is None else TaskSpec("digits-mlp", hidden=(hidden,))
    model, rows = kept_in(spec.build().model(4), "float64"), [3, 1000, 17, 3]
    loss = cross_entropy(model(digits().train.inputs[rows].double()), digits().train.labels[rows])
    loss.backward()
    sizes = [64, 10] if hidden is None else [64, hidden, 10]
    got = value(
        f"(() => {{ const net = new steprule.data.Network({sizes}), made = net.gradient(net.draw(4), sets.train, "
        f"Uint32Array.from({rows})); return [made.loss, made.gradients.map((one) => [...one])]; }})()"
    )
    assert got[0] == pytest.approx(loss.item(), rel=1e-14)
    for mine, parameter in zip(got[1], model.parameters(), strict=True):
        np.testing.assert_allclose(mine, parameter.grad.ravel().numpy(), rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model": "logreg", "seed": 3},
        {"batch": 50, "seed": 7, "epochs": 2, "final": True},
        {"full": True, "epochs": 20, "final": True},
    ],
)
def test_losses_of_an_epoch_are_those_of_steprule_train(value, changes):
    """Each batch's loss, and losses and shares told right at the end, to 1e-9: in fact to rounding."""
    spec = as_spec(changes, beta=0.0 if changes.get("full") else 0.9)
    result = train(spec)
    assert result.status == "finished"
    hypers = json.dumps({"lr": 0.5, "beta": 0.0 if changes.get("full") else 0.9})
    got = value(f"run({told(**changes)}, {hypers}, {'true' if changes.get('full') else 'false'})")
    size = len(digits().train)
    assert sorted(evaluation_points(spec, size)) == list(range(len(got["losses"]) + 1))  # a point each iteration
    mine = [np.nan, *got["losses"]]
    for point in result.curve[1:]:
        assert mine[point.iteration] == pytest.approx(point.training_loss, rel=0, abs=1e-9)
    (training, _), (validation, score), (test, accuracy) = got["after"]
    assert training == pytest.approx(result.final_loss, abs=1e-9)
    assert validation == pytest.approx(result.curve[-1].validation_loss, abs=1e-9)
    assert test == pytest.approx(result.test_loss, abs=1e-9)
    assert (score, accuracy) == (result.curve[-1].score, result.test_score)
    assert got["epochs"] == pytest.approx(result.epochs)


def test_epochs_end_where_all_examples_have_been_seen_and_at_the_last_iteration(value):
    assert value(f"run({told(epochs=2, final=True)}, {{lr: 0.1, beta: 0}}, false).ends") == [34, 68, 69]
    budget = told(budget="iterations", iterations=40)
    assert value(f"run({budget}, {{lr: 0.1, beta: 0}}, false).ends") == [34, 40]


def test_a_run_that_diverges_ends_and_says_so(value):
    got = value(f"run({told(model='mlp')}, {{lr: 1e200, beta: 0}}, false)")
    assert len(got["losses"]) < 5
    assert "the loss of iteration" in got["trouble"]
