"""The page trains on the digits as `steprule train --parameters float64` does: sets, weights, batches and losses."""

import json

import numpy as np
import pytest
from engine import engine
from torch.nn.functional import cross_entropy

from steprule.lab.budget import Budget
from steprule.lab.clips import Clip
from steprule.lab.data import digits
from steprule.lab.methods import Method
from steprule.lab.network import kept_in
from steprule.lab.runs import RunSpec
from steprule.lab.tasks import TaskSpec
from steprule.lab.training import evaluation_points, index_plan, train
from steprule.play.data import packed
from steprule.play.scripts import text

pytestmark = pytest.mark.cpu

SCRIPTS = ("random", "data-digits", "data-model", "data-training", "data-worker")
SPEC = {"model": "mlp", "hidden": 16, "batch": 32, "budget": "epochs", "epochs": 1, "iterations": 1, "seed": 0}
HARNESS = """
globalThis.sets = steprule.data.unpack(PACKED);
globalThis.learnt = function (spec, text, hypers, full) {
  const made = new steprule.data.Training(sets, spec, { rule: steprule.build(text).rule, hypers, full });
  const losses = [], ends = [];
  for (let loss; (loss = made.next()) !== null; ) { losses.push(loss); if (made.epochEnds) ends.push(made.done); }
  const evaluated = ["train", "validation", "test"].map((name) => made.evaluate(name));
  const after = evaluated.map((one) => [one.loss, one.accuracy]);
  return { losses, ends, after, epochs: made.epochs, trouble: made.trouble, counts: made.counts };
};
globalThis.studied = function (spec, methods) {
  const told = [], study = new steprule.data.Study(sets, spec, methods, (message) => told.push(message));
  while (study.turn()) if (told.length % 3 === 0) study.report();
  study.report();
  return told;
};
"""


@pytest.fixture(scope="module")
def value():
    context = engine()
    for name in SCRIPTS:
        context.eval(text(f"web/{name}.js") + "\n;0")
    context.eval(HARNESS.replace("PACKED", json.dumps(packed())) + "\n;0")
    return lambda expression: json.loads(context.eval(f"JSON.stringify({expression})"))


def told(**changes):
    return json.dumps({"final": False, **SPEC, **changes})


def as_spec(changes, name="momentum", lr=0.5, clips=(), backend="eager", **hyper):
    """The same run for the lab."""
    of = {"final": False, **SPEC, **changes}
    task = TaskSpec("digits-mlp", hidden=(of["hidden"],)) if of["model"] == "mlp" else TaskSpec("digits-logreg")
    counted = {of["budget"]: of[of["budget"]]}
    own = () if backend is None else (("backend", backend),)
    method = Method(name, (*hyper.items(), *own), tuple(clips), parameters="float64")
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
    spec = as_spec(changes, "gd" if changes.get("full") else "momentum")
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


def same(value, spec, changes, program, hypers):
    """Return the greatest gap between the losses of the lab and of the page: every batch, and each set at the end."""
    result = train(spec)
    assert result.status == "finished"
    full = "true" if spec.method.full_batch else "false"
    got = value(f"learnt({told(**changes)}, {json.dumps(program)}, {json.dumps(hypers)}, {full})")
    assert got["trouble"] == ""
    size = len(digits().train)
    assert sorted(evaluation_points(spec, size)) == list(range(len(got["losses"]) + 1))  # a point each iteration
    (training, _), (validation, score), (test, accuracy) = got["after"]
    pairs = [(got["losses"][point.iteration - 1], point.training_loss) for point in result.curve[1:]]
    pairs += [(training, result.final_loss), (validation, result.curve[-1].validation_loss), (test, result.test_loss)]
    assert (score, accuracy) == (result.curve[-1].score, result.test_score)
    assert got["epochs"] == pytest.approx(result.epochs)
    return max(abs(mine - theirs) for mine, theirs in pairs)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "momentum"),
        ({"model": "logreg", "seed": 3}, "momentum"),
        ({"batch": 50, "seed": 7, "epochs": 2, "final": True}, "momentum"),
        ({"epochs": 20, "final": True}, "gd"),
    ],
)
def test_losses_of_an_epoch_are_those_of_steprule_train(value, changes, name):
    """Both networks, another seed, a smaller last batch, two epochs, the board's final iteration, the whole data.

    The first one is stepped by the kernel that the command compiles, the others by operations of torch.
    """
    spec = as_spec(changes, name, backend="eager" if changes else None)
    assert same(value, spec, changes, f"board.{name}", {"lr": 0.5, "beta": 0.9}) < 1e-9


METHODS = [
    ("sgd", "board.sgd", 0.5, {}, ()),
    ("nesterov", "board.nesterov", 0.5, {"beta": 0.9}, ()),
    ("nesterov-implicit", 'board.nesterov(look_ahead="implicit")', 0.1, {"beta": 0.9}, ()),
    ("adagrad", "board.adagrad", 0.05, {"eps": 1e-8}, ()),
    ("rmsprop", "board.rmsprop", 0.005, {"beta": 0.99, "eps": 1e-8}, ()),
    ("adam", "board.adam", 0.005, {"beta1": 0.9, "beta2": 0.99, "eps": 1e-8}, ()),
    ("momentum", "chain(board.clip_norm, board.momentum)", 0.1, {"beta": 0.9}, (Clip("clip_norm", 1.0),)),
    ("sgd", "chain(board.clip_component, board.sgd)", 0.5, {}, (Clip("clip_component", 1.0),)),
    ("sam+momentum", "sam(board.momentum)", 0.5, {"beta": 0.9}, ()),
]


@pytest.mark.parametrize(("name", "program", "lr", "hypers", "clips"), METHODS, ids=lambda one: str(one)[:40])
def test_every_method_of_the_board_learns_as_in_steprule_train(value, name, program, lr, hypers, clips):
    """Nesterov is exact here and closure-free there: its losses are of the same points.

    Where a unit switches off, an implicit step has no end in either, so that one is taken without hidden units.
    """
    changes = {"model": "logreg"} if "implicit" in name else {}
    spec = as_spec(changes, name, lr, clips, **hypers)
    assert same(value, spec, changes, program, {"lr": lr, **hypers}) < 1e-9


def test_epochs_end_where_all_examples_have_been_seen_and_at_the_last_iteration(value):
    assert value(f"learnt({told(epochs=2, final=True)}, 'board.sgd', {{lr: 0.1}}, false).ends") == [34, 68, 69]
    budget = told(budget="iterations", iterations=40)
    assert value(f"learnt({budget}, 'board.sgd', {{lr: 0.1}}, false).ends") == [34, 40]


def test_a_run_that_diverges_ends_and_says_so(value):
    got = value(f"learnt({told(model='mlp')}, 'board.sgd', {{lr: 1e200}}, false)")
    assert len(got["losses"]) < 5
    assert "the loss of iteration" in got["trouble"]


def test_a_study_takes_turns_and_tells_all_losses_each_epoch_and_the_end(value):
    methods = [
        {"key": "sgd", "text": "board.sgd", "choices": {}, "hypers": {"lr": 0.5}, "full": False},
        {"key": "gd", "text": "board.gd", "choices": {}, "hypers": {"lr": 0.5}, "full": True},
        {"key": "lost", "text": "board.lost", "choices": {}, "hypers": {}, "full": False},
        {"key": "wild", "text": "board.sgd", "choices": {}, "hypers": {"lr": 1e200}, "full": False},
    ]
    messages = value(f"studied({told(epochs=2, final=True)}, {json.dumps(methods)})")
    of = {one["key"]: [message for message in messages if message["key"] == one["key"]] for one in methods}
    assert [message["type"] for message in of["lost"]] == ["end"]
    assert "lost" in of["lost"][0]["trouble"]
    assert "the loss of iteration" in of["wild"][-1]["trouble"]
    assert "accuracy" not in of["wild"][-1]
    for key, ends in (("sgd", [34, 68, 69]), ("gd", [1, 2, 3])):
        assert of[key][0]["type"] == "began"
        losses = [loss for message in of[key] if message["type"] == "losses" for loss in message["losses"]]
        whole = value(f"learnt({told(epochs=2, final=True)}, 'board.{key}', {{lr: 0.5}}, {str(key == 'gd').lower()})")
        assert losses == whole["losses"]
        epochs = [message for message in of[key] if message["type"] == "epoch"]
        assert [message["iteration"] for message in epochs] == ends
        for start, epoch in zip((0, *ends), epochs, strict=False):
            assert epoch["training"] == pytest.approx(np.mean(losses[start : epoch["iteration"]]))
        assert of[key][-1]["type"] == "end"
        assert of[key][-1]["accuracy"] == whole["after"][2][1]
        assert len(epochs[-1]["told"]) == 24
