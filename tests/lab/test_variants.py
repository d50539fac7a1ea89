"""Variants: an optimiser's formula with other options, at its learning rate, and parameters kept in 16 bits."""

import importlib.util
import json
import math
from pathlib import Path

import pytest
import synthetic
import torch
from torch import nn

from steprule.__main__ import main
from steprule.errors import HyperparameterError
from steprule.lab.budget import Budget
from steprule.lab.clips import Clip
from steprule.lab.methods import Method, crossed, varied
from steprule.lab.network import accumulate, as_it_came, evaluate, kept_in
from steprule.lab.protocol import Study, StudyPlan, report_specs
from steprule.lab.report import tables, words
from steprule.lab.report.derive import chapters
from steprule.lab.report.shape import check
from steprule.lab.results import Provenance, document
from steprule.lab.runs import Point, RunResult, RunSpec
from steprule.lab.statistics import variants
from steprule.lab.tasks import TaskSpec
from steprule.lab.training import train

SEVEN = {"parameters": "bfloat16", "rounding": "compensated8", "state": "8bit"}


@pytest.mark.null
def test_every_arm_is_followed_by_its_variants_which_keep_its_settings_and_clippings():
    arms = crossed([Method("adamw", (("weight_decay", 0.1),)), Method("lion")], ("constant",), (1.0,))
    made = varied(arms, [{"state": "8bit"}, SEVEN])
    assert [method.key for method in made] == [
        "adamw · weight_decay=0.1 · clip 1",
        "adamw · weight_decay=0.1 · state=8bit · clip 1",
        "adamw · parameters=bfloat16 · weight_decay=0.1 · rounding=compensated8 · state=8bit · clip 1",
        "lion · clip 1",
        "lion · state=8bit · clip 1",
        "lion · parameters=bfloat16 · rounding=compensated8 · state=8bit · clip 1",
    ]
    assert [made.index(method.of) if method.of else None for method in made] == [None, 0, 0, None, 3, 3]
    assert all(method.clips == (Clip("clip_global_norm", 1.0),) for method in made)


@pytest.mark.null
@pytest.mark.parametrize(
    ("variant", "told"),
    [
        ({"beta": 0.5}, "changes no formula"),
        ({"states": "8bit"}, "did you mean state"),
        ({"state": "4bit"}, "not allowed"),
        ({"compensated": 3}, "true or false"),
    ],
)
def test_what_would_change_the_formula_or_is_no_option_is_no_variant(variant, told):
    with pytest.raises(HyperparameterError, match=told):
        varied([Method("momentum")], [variant])


@pytest.mark.null
def test_an_optimiser_of_another_library_may_vary_its_parameters_alone():
    (_, bf16) = varied([Method("torch.optim:SGD")], [{"parameters": "bfloat16"}])
    assert bf16.key == "torch.optim:SGD · parameters=bfloat16"
    with pytest.raises(HyperparameterError, match=r"it takes parameters$"):
        varied([Method("torch.optim:SGD")], [{"state": "8bit"}])


@pytest.mark.null
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("state", "is not NAME=VALUE"),
        ("parameters=float16", "is not NAME=VALUE"),
        ("lr=0.1", "'lr' is no option of sgd"),
        ("state=8bit,beta=2", "'beta' is no option"),
    ],
)
def test_a_wrong_variant_is_answered_in_one_line(given, told, capsys):
    assert main(["compare", "--optimizers", "sgd", "--variant", given]) == 2
    err = capsys.readouterr().err
    assert err.startswith("steprule: error:")
    assert told in err
    assert len(err.splitlines()) == 1


def study(losses):
    """A study of two optimisers with a variant each, whose final training losses are given by arm and seed."""
    methods = varied([Method("sgd"), Method("momentum")], [{"state": "bfloat16"}])
    seeds = tuple(range(100, 105))
    plan = StudyPlan(TaskSpec(), methods, Budget(), (0.01, 0.1, 1.0), (0,), seeds)
    done = Study(plan, plan.grid)
    while wanted := done.wanted():
        for spec in wanted:
            done.add([_run(spec, losses.get(spec.method.key))])
    return done


def _run(spec, losses):
    """A run that pretends: sgd learns best at 0.1, momentum at 1 and beyond, and a variant would at 0.01."""
    best = 0.01 if spec.method.of else {"sgd": 0.1, "momentum": 10.0}[spec.method.name]
    validation = abs(math.log10(spec.lr / best))
    final = losses[spec.seed - 100] if losses and spec.phase == "report" else 1.0
    status = "finished" if final is not None else "diverged"
    points = (Point(1, 1.0, 32, 0.1, 0.1, 1.0, validation, 0.5),)
    return RunResult(spec, status, "", points, 3.0, 0.3 if final is None else final, test_score=0.5)


@pytest.mark.null
def test_a_variant_is_not_tuned_and_takes_the_rate_of_its_optimiser():
    done = study({})
    sgd, sgd_variant, momentum, momentum_variant = done.plan.methods
    assert {run.spec.method for run in done.runs if run.spec.phase == "tuning"} == {sgd, momentum}
    assert done.choice(sgd_variant) == done.choice(sgd)
    assert done.choice(momentum_variant) == done.choice(momentum)
    assert [done.choice(method).lr for method in (sgd, momentum)] == [0.1, 10.0]
    assert done.grid == (0.01, 0.1, 1.0, 10.0, 100.0)  # a variant's best would have widened it below, too
    assert [run.spec.lr for run in done.report_runs(sgd_variant)] == [0.1] * 5
    assert done.plan.runs == 2 * 3 + 4 * 5
    assert len(report_specs(done)) == 20


@pytest.mark.null
def test_a_variant_is_compared_seed_by_seed_with_its_own_optimiser():
    usual = [0.10, 0.20, 0.30, 0.40, 0.50]
    near = [loss + 0.01 for loss in usual]
    far = [0.9, 0.91, 0.92, None, None]
    done = study({"sgd": usual, "sgd · state=bfloat16": near, "momentum": usual, "momentum · state=bfloat16": far})
    close, apart = variants(done)
    assert (close.optimizer, close.of, close.overlap, close.verdict) == (
        "sgd · state=bfloat16",
        "sgd",
        True,
        "indistinguishable",
    )
    assert close.difference.low == pytest.approx(0.01)
    assert close.difference.high == pytest.approx(0.01)
    assert (close.loss.middle, close.of_loss.middle) == pytest.approx((0.31, 0.30))
    assert (apart.of, apart.overlap, apart.verdict) == ("momentum", False, "worse")
    assert apart.loss.high > 1  # a run that diverged is the worst, though it has a loss
    made = document(done_comparison(done), Provenance("steprule compare", 1, "2026-01-01T00:00:00+00:00"))
    check(made)
    assert [one["optimizer"] for one in made["variants"]] == [close.optimizer, apart.optimizer]
    assert any("takes the learning rate that was kept" in text for text in made["protocol"]["text"])
    (chapter,) = chapters(made)
    (note,) = [note for note in words.footnotes(made, chapter) if "variants" in note]
    assert note.startswith(
        "Of 2 variants, 1 end at a training loss whose interval overlaps that of the optimiser; not "
    )
    assert "momentum · state=bfloat16" in note
    rows = tables.variants(made, chapter).rows
    assert rows[0][1:4] == ["0.310 [0.110, 0.510]", "0.300 [0.100, 0.500]", "0.0100 [0.0100, 0.0100]"]
    assert [row[-1] for row in rows] == ["yes", "no"]
    reduced = _learning().reduced([made])
    told = _learning().section(reduced)
    assert (
        "Of 2 pairs, the intervals of 1 overlap float32's. **Apart ▼:** momentum in bfloat16 state on digits-mlp"
        in told
    )
    assert (
        "| sgd, 0.1 | float32 | – | 0.3 [0.1, 0.5] |  |  |\n|  | bfloat16 state | – | 0.31 [0.11, 0.51] | +0.01" in told
    )
    assert _learning().picture(reduced).count("<path") > 10
    few = [run for run in done.runs if run.spec.phase == "tuning" or run.spec.seed < 104]
    assert not variants(Study(done.plan, done.grid, _done={run.spec: run for run in few}))  # four seeds say nothing


def _learning():
    """Import the script that writes such comparisons down."""
    place = Path(__file__).parents[2] / "benchmarks" / "learning.py"
    spec = importlib.util.spec_from_file_location("learning", place)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def done_comparison(done):
    from steprule.lab.protocol import Comparison

    return Comparison((done,), complete=True)


@pytest.mark.null
def test_a_record_without_variants_is_read_as_before():
    made = synthetic.document(2, 1)
    assert tables.variants(made, chapters(made)[0]) is None
    assert not [note for note in words.footnotes(made, chapters(made)[0]) if "variant" in note]


class Net(nn.Module):
    """Two layers that share one matrix, so that a parameter has two names."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(64, 64)
        self.second = nn.Linear(64, 64)
        self.second.weight = self.first.weight
        self.last = nn.Linear(64, 10)
        self.register_buffer("shift", torch.full((64,), 0.1))

    def forward(self, x):
        return self.last(self.second(torch.relu(self.first(x) + self.shift)))


@pytest.mark.null
def test_parameters_of_16_bits_are_computed_with_as_numbers_of_32():
    task = TaskSpec().build()
    torch.manual_seed(0)
    narrow = kept_in(Net(), "bfloat16")
    assert {parameter.dtype for parameter in narrow.parameters()} == {torch.bfloat16}
    assert narrow.shift.dtype == torch.float32
    assert narrow.second.weight is narrow.first.weight
    wide = as_it_came(narrow)
    assert as_it_came(wide) is wide
    assert wide is not narrow
    assert wide.second.weight is wide.first.weight
    assert evaluate(narrow, task, task.data.validation) == evaluate(wide, task, task.data.validation)
    inputs, labels = task.data.train.inputs[:32], task.data.train.labels[:32]
    losses = [accumulate(model, task, inputs, labels) for model in (narrow, wide)]
    assert losses[0] == losses[1]
    for mine, theirs in zip(narrow.parameters(), wide.parameters(), strict=True):
        assert mine.grad.dtype == torch.bfloat16
        assert torch.equal(mine.grad, theirs.grad.bfloat16())


@pytest.mark.null
def test_what_is_no_float32_parameter_stays_as_it_is():
    bowl = TaskSpec("quadratic").build().model(0)
    assert kept_in(bowl, "bfloat16").point.dtype == torch.float64


@pytest.mark.null
def test_a_run_keeps_its_parameters_and_state_in_the_formats_that_were_asked_for():
    """And whatever keeps bits tells of it: beside nearest rounding, small updates are lost."""
    losses = {}
    for name, own in {"float32": {}, "nearest": {"parameters": "bfloat16"}, "seven": SEVEN}.items():
        (method,) = varied([Method("adamw")], [{"backend": "eager", **own}])[1:]  # which compiles nothing
        spec = RunSpec(TaskSpec(), method, 3e-5, 0, Budget(epochs=None, iterations=60))
        done = train(spec)
        losses[name] = done.initial_loss - done.final_loss
        bytes_ = {"float32": 8, "nearest": 4, "seven": 3.7}[name]  # of the small tensors, slots stay float32
        assert done.state_bytes_per_parameter == pytest.approx(bytes_, rel=0.15)
    assert losses["nearest"] < 0.9 * losses["float32"]
    assert losses["seven"] == pytest.approx(losses["float32"], rel=0.02)


@pytest.mark.cpu
def test_train_tells_of_parameters_in_16_bits(capsys):
    command = "train --task digits-mlp --hidden 16 --optimizer sgd --lr 0.1 --iterations 5 --parameters bfloat16 --json"
    assert main([*command.split(), "--no-progress"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["optimizers"][0]["key"] == "sgd · parameters=bfloat16"
    assert made["optimizers"][0]["bytes_per_parameter"] == 6


@pytest.mark.null
def test_parameters_of_64_bits_are_the_drawn_ones_and_all_of_a_run_is_computed_in_64_bits():
    """Float32 weights, widened; then a step is what float64 arithmetic makes of them, far beyond float32's digits."""
    task = TaskSpec("digits-logreg").build()
    drawn, wide = task.model(3), kept_in(task.model(3), "float64")
    for mine, theirs in zip(wide.parameters(), drawn.parameters(), strict=True):
        assert torch.equal(mine, theirs.double())
    inputs, labels = task.data.train.inputs[:32], task.data.train.labels[:32]
    loss = accumulate(wide, task, inputs, labels)
    weight, bias = (parameter.detach() for parameter in wide.parameters())
    outputs = inputs.double() @ weight.T + bias
    wrong = torch.softmax(outputs, 1) - torch.nn.functional.one_hot(labels, 10)
    assert loss == pytest.approx((torch.logsumexp(outputs, 1) - outputs[range(32), labels]).mean().item(), rel=1e-14)
    assert torch.allclose(wide[0].weight.grad, wrong.T @ inputs.double() / 32, rtol=1e-13, atol=1e-16)
    assert evaluate(wide, task, task.data.validation)[0] != evaluate(drawn, task, task.data.validation)[0]


@pytest.mark.null
def test_an_exhibit_of_parameters_in_64_bits_is_made_as_of_others():
    method = Method("sgd", (("backend", "eager"),), parameters="float64")
    done = train(
        RunSpec(TaskSpec("digits-autoencoder"), method, 0.01, 0, Budget(epochs=None, iterations=2), exhibits=True)
    )
    assert done.status == "finished"
    assert done.exhibits[0].png
    assert done.state_bytes_per_parameter == 0


@pytest.mark.cpu
def test_train_tells_of_parameters_in_64_bits_and_refuses_to_compute_with_them_in_fewer(capsys):
    command = (
        "train --task digits-logreg --optimizer momentum --lr 0.1 --iterations 5 --parameters float64 --no-progress"
    )
    assert main([*command.split(), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["optimizers"][0]["key"] == "momentum · parameters=float64"
    assert made["optimizers"][0]["bytes_per_parameter"] == 40
    assert main([*command.split(), "--precision", "bfloat16"]) == 2
    assert "leave out one of --parameters float64 and --precision bfloat16" in capsys.readouterr().err
