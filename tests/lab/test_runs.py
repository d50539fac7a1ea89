"""How a run is computed, what is measured on the way, how it fails, and its record."""

import json
import math
from dataclasses import replace

import pytest
import torch

from steprule.__main__ import main
from steprule.errors import StepruleError
from steprule.lab import network, training
from steprule.lab.budget import Budget
from steprule.lab.clips import Clip
from steprule.lab.diagnostics import Probe, state_bytes
from steprule.lab.methods import Method
from steprule.lab.network import accumulate, at_theta, check_precision
from steprule.lab.runs import OUT_OF_MEMORY, RunSpec, failure, from_record
from steprule.lab.tasks import Exhibit, TaskSpec
from steprule.lab.training import train
from steprule.lab.workers import attempt

pytestmark = pytest.mark.cpu

TASK = TaskSpec(hidden=(16,))
CLIP = (Clip("clip_global_norm", 0.3),)


def spec(name="sgd", lr=0.1, clips=(), schedule="constant", phase="report", **budget):
    budget = Budget(**{"epochs": None, "iterations": 30, **budget})
    return RunSpec(TASK, Method(name, clips=clips, schedule=schedule), lr, 3, budget, phase)


@pytest.mark.parametrize("parts", [2, 5, 32])
def test_the_gradient_of_micro_batches_is_that_of_the_whole_batch(parts):
    task = TASK.build()
    model, few = task.model(0).double(), task.data.train
    inputs, labels = few.inputs[:32].double(), few.labels[:32]
    whole = accumulate(model, task, inputs, labels)
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    assert accumulate(model, task, inputs, labels, parts) == pytest.approx(whole, rel=1e-12)
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-11, atol=1e-14)


def test_a_run_in_micro_batches_takes_the_same_course():
    whole, parts = train(spec()), train(spec(accumulate=4))
    assert [point.examples for point in parts.curve] == [point.examples for point in whole.curve]
    assert parts.curve[-1].validation_loss == pytest.approx(whole.curve[-1].validation_loss, rel=1e-5)
    assert parts.curve != whole.curve  # sums of floats in another order


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["adam", "nesterov", "torch.optim:AdamW"])
def test_mixed_precision_comes_close_to_float32(precision, name):
    check_precision(TASK.build(), precision)
    mixed, single = train(spec(name, 0.01, CLIP, precision=precision)), train(spec(name, 0.01, CLIP))
    assert mixed.status == "finished"
    assert mixed.curve != single.curve
    assert mixed.final_loss == pytest.approx(single.final_loss, rel=0.02)
    assert mixed.curve[-1].gradient_norm == pytest.approx(single.curve[-1].gradient_norm, rel=0.1)


def test_a_step_whose_float16_gradients_overflow_is_left_out():
    task = TASK.build()
    method = Method("sgd")
    model = task.model(0)
    run = training._Run(spec(), task, model, method.optimizer(model.parameters(), 0.1), None, None,
                        torch.amp.GradScaler("cpu", init_scale=2.0**40))  # fmt: skip
    before = [parameter.detach().clone() for parameter in model.parameters()]
    run.spec = replace(run.spec, budget=replace(run.spec.budget, precision="float16"))
    loss = run.gradient(torch.arange(32))
    assert math.isfinite(loss)
    run.step(1, loss)
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
    assert run.scale.get_scale() == 2.0**39


def test_a_precision_that_the_machine_lacks_is_refused(monkeypatch):
    monkeypatch.setitem(network.PRECISIONS, "float16", torch.int8)
    with (
        pytest.warns(UserWarning, match="autocast"),
        pytest.raises(StepruleError, match=r"cannot be trained in float16 here"),
    ):
        check_precision(_raising(TASK.build()), "float16")


def _raising(task):
    def loss(outputs, labels):
        raise RuntimeError("not implemented for 'Half'")

    return replace(task, loss=loss)


def test_a_run_that_takes_too_long_has_failed_and_keeps_its_curve(monkeypatch):
    usual = train(spec())
    clock = iter(range(10_000))
    monkeypatch.setattr(training._Run, "elapsed", lambda _: float(next(clock)))
    result = train(spec(timeout=20.0))
    assert (result.status, result.reason) == ("failed", "timed out after 20 s")
    assert 1 < len(result.curve) < 31
    assert result.curve == usual.curve[: len(result.curve)]
    assert result.validation_loss == math.inf
    assert result.test_loss is None


def test_a_run_without_memory_has_failed_and_keeps_its_curve(monkeypatch):
    calls = iter(range(10_000))

    def full(*arguments):
        if next(calls) == 7:
            torch.empty(1 << 60)
        return accumulate(*arguments)

    monkeypatch.setattr(training, "accumulate", full)
    result = train(spec())
    assert (result.status, result.reason) == ("failed", OUT_OF_MEMORY)
    assert len(result.curve) == 8


def test_every_want_of_memory_goes_by_one_name(monkeypatch):
    assert failure(MemoryError()) == failure(torch.OutOfMemoryError("CUDA")) == OUT_OF_MEMORY
    assert failure(ValueError("no")) == "ValueError: no"
    monkeypatch.setattr("steprule.lab.workers.train", lambda *_: torch.empty(1 << 60))
    assert attempt(spec()).reason == OUT_OF_MEMORY
    monkeypatch.undo()
    monkeypatch.setattr(training, "accumulate", lambda *_: torch.ones(2) @ torch.ones(3))
    assert attempt(spec()).reason.startswith("RuntimeError: ")


def test_the_schedule_sets_the_learning_rate_of_every_step():
    result = train(spec(lr=0.2, schedule="warmup-cosine", iterations=60))
    assert result.curve[0].lr is None
    rates = [point.lr for point in result.curve[1:]]
    assert rates[:3] == pytest.approx([0.2 / 3, 0.4 / 3, 0.2])
    assert rates[3] == pytest.approx(0.2)
    assert rates[-1] < 0.001
    ratios = [point.update_ratio / point.gradient_norm for point in result.curve[1:]]
    assert ratios[1] / ratios[0] == pytest.approx(2, rel=0.01)  # an SGD step is η g
    assert result.curve != train(spec(lr=0.2, iterations=60)).curve
    longer = train(spec(lr=0.2, schedule="cosine", iterations=5, final_full_batch=True))
    assert longer.curve[-1].lr == pytest.approx(0.2 * (1 + math.cos(math.pi * 5 / 6)) / 2)


@pytest.mark.parametrize("name", ["sgd", "nesterov", "torch.optim:SGD"])
@pytest.mark.parametrize("clips", [(), CLIP, (Clip("clip_value", 0.01),)], ids=str)
def test_the_diagnostics_are_what_they_are_called(name, clips):
    task = TASK.build()
    method = Method(name, clips=clips)
    model = task.model(0)
    optimizer = method.optimizer(model.parameters(), 0.1)
    for time in range(3):
        accumulate(model, task, task.data.train.inputs[time : time + 40], task.data.train.labels[time : time + 40])
        gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).double()
        probe = Probe(model, optimizer, method)
        with at_theta(optimizer):
            before = torch.cat([parameter.detach().clone().flatten() for parameter in model.parameters()])
        if method.clips_outside:
            method.clip(model.parameters())
        optimizer.step()
        with at_theta(optimizer):
            after = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
        seen = probe.read()
    assert seen.gradient_norm == pytest.approx(gradient.norm().item(), rel=1e-6)
    assert seen.update_ratio == pytest.approx(((after - before).norm() / after.norm()).item(), rel=1e-5)
    if not clips:
        assert seen.clip_coefficient is None
        return
    by_norm = min(1.0, 0.3 / gradient.norm().item())
    by_value = (gradient.clamp(-0.01, 0.01).norm() / gradient.norm()).item()
    assert seen.clip_coefficient == pytest.approx(by_norm if clips == CLIP else by_value, rel=1e-5)
    assert seen.clip_coefficient < 1


def test_a_run_carries_its_diagnostics_and_changes_nothing_by_them(monkeypatch):
    result = train(spec("adam", 0.01, CLIP))
    first, *later = result.curve
    assert first.gradient_norm is first.clip_coefficient is first.update_ratio is None
    assert all(point.gradient_norm > 0 and 0 < point.clip_coefficient <= 1 for point in later)
    assert all(0 < point.update_ratio < 1 for point in later)
    assert [point.examples for point in result.curve] == [32 * step for step in range(31)]
    seconds = [point.seconds for point in result.curve]
    assert seconds == sorted(seconds)
    assert 0 < seconds[-1] < result.seconds
    monkeypatch.setattr(training, "POINTS", 1)
    assert train(spec("adam", 0.01, CLIP)).final_loss == result.final_loss


def test_the_state_an_optimiser_keeps_is_measured():
    assert train(spec("sgd")).state_bytes_per_parameter == 0
    for name, bytes_ in (("adam", 8), ("torch.optim:AdamW", 8), ("torch.optim:SGD", 0), ("nesterov", 4)):
        assert train(spec(name, 0.01)).state_bytes_per_parameter == pytest.approx(bytes_, abs=0.1)
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(10))])
    optimizer.param_groups[0]["params"][0].grad = torch.ones(10)
    optimizer.step()
    assert state_bytes(optimizer) == 84  # two moments of ten numbers, and the count of the steps


class Switching(torch.optim.SGD):
    """Trains at another point than the one it is judged at, as schedule-free optimisers do."""

    def eval(self):
        self.param_groups[0]["params"][0].data += 1.0

    def train(self):
        self.param_groups[0]["params"][0].data -= 1.0


def test_an_optimiser_that_switches_is_evaluated_where_it_asks_to_be():
    parameter = torch.nn.Parameter(torch.zeros(1))
    with at_theta(Switching([parameter], lr=0.1)):
        assert parameter.item() == 1.0
    assert parameter.item() == 0.0


def test_dropout_follows_from_the_seed_alone(monkeypatch):
    task = TASK.build()

    def model(seed):
        return torch.nn.Sequential(torch.nn.Dropout(0.5), task.model(seed))

    monkeypatch.setattr(TaskSpec, "build", lambda _: replace(task, model=model))
    torch.manual_seed(1)
    first = train(spec())
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    assert train(spec()).curve == first.curve
    assert torch.equal(torch.random.get_rng_state(), state)


def test_only_the_run_that_is_asked_shows_what_its_network_makes(monkeypatch):
    shown = (Exhibit("a picture", png=b"\x89PNG"), Exhibit("a text", text="λ"))
    task = replace(TASK.build(), exhibit=lambda model: list(shown) if not model.training else [])
    monkeypatch.setattr(TaskSpec, "build", lambda _: task)
    assert train(spec()).exhibits == ()
    result = train(replace(spec(), exhibits=True))
    assert result.exhibits == shown
    assert result.spec == spec()  # it decides nothing
    assert from_record(spec(), json.loads(json.dumps(result.as_record()))).exhibits == shown


@pytest.mark.parametrize(("name", "lr"), [("adam", 0.01), ("sgd", 1e30), ("torch.optim:AdamW", 0.01)])
def test_a_result_comes_back_from_its_record(name, lr):
    result = train(spec(name, lr, CLIP))
    record = json.loads(json.dumps(result.as_record(), allow_nan=False))
    back = from_record(result.spec, record)
    assert back.as_record() == record
    assert (back.status, back.reason, back.iterations) == (result.status, result.reason, result.iterations)
    assert (back.optimizer_us_per_step, back.seconds) == (result.optimizer_us_per_step, result.seconds)
    if result.status == "finished":
        assert back == result
        assert [point.seconds for point in back.curve] == [point.seconds for point in result.curve]
    else:
        assert record["final_training_loss"] is None
        assert math.isnan(back.final_loss)


def test_a_result_without_a_curve_comes_back_too(monkeypatch):
    monkeypatch.setattr("steprule.lab.workers.train", lambda *_: 1 / 0)
    result = attempt(spec())
    record = result.as_record()
    assert record["curve"]["gradient_norm"] == []
    assert from_record(result.spec, record).as_record() == record


def test_a_tuning_run_never_meets_the_test_set():
    assert train(spec(phase="tuning")).test_loss is None
    assert train(spec(phase="default")).test_loss is not None


def test_the_command_line_sets_all_of_it(tmp_path, capsys):
    command = (
        "train --optimizer torch.optim:AdamW --set torch.optim:AdamW.weight_decay=0.1 --lr 0.01 --iterations 20 "
        "--hidden 8 --accumulate 4 --precision bfloat16 --schedule cosine --clip-global-norm --timeout 99 --no-progress"
    )
    assert main([*command.split(), "--out", str(tmp_path)]) == 0
    assert main([*command.split(), "--timeout", "1e-9"]) == 1
    assert "failed" in capsys.readouterr().out
    assert main(["train", "--optimizer", "sgd", "--lr", "1", "--accumulate", "64"]) == 2
    assert "at most 32" in capsys.readouterr().err
