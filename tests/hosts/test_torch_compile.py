"""torch.compile: our step runs as it is, outside the graphs, whatever around it is compiled.

A step is one kernel already, and dynamo could not follow raw addresses. So `step` is marked: a graph ends before it and
begins after it, nothing in it is traced, and a learning rate that changes compiles nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._C._dynamo import eval_frame
from torch._dynamo.utils import counters
from torch.optim.lr_scheduler import ExponentialLR
from torch_loop import PAIRS, batch, deviation, held, identical, loss_of, network, through_a_file

import steprule as sr
from steprule import board
from steprule.optim.surroundings import uncompiled

pytestmark = [pytest.mark.cpu, pytest.mark.host("torch.compile")]

TORCHS_OWN = (
    # dynamo looks at .grad of every tensor that it wraps
    "The .grad attribute of a Tensor that is not a leaf:UserWarning",
    "`torch.jit.script:DeprecationWarning",
)
pytestmark += [pytest.mark.filterwarnings(f"ignore:{message}") for message in TORCHS_OWN]

STEPS = 6
OLD = torch.torch_version.TorchVersion(torch.__version__) < (2, 13)
EAGER, AOT = "eager", "aot_eager"  # both trace and guard as the default one does, and need no C++ compiler
Made = tuple[torch.nn.Module, torch.optim.Optimizer]

MAKERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "AdamW": lambda params: sr.optim.AdamW(params, lr=0.02, weight_decay=0.1),
    "AdamW, clipped": lambda params: sr.optim.AdamW(params, lr=0.02, clip=0.1, nonfinite="skip"),
    "SGD": lambda params: sr.optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True),
    "a tensor as rate": lambda params: sr.optim.AdamW(params, lr=torch.tensor(0.02, dtype=torch.float64)),
    "board.adam": lambda params: board.adam.optimizer(params, lr=0.02),
    "board.nesterov": lambda params: board.nesterov.optimizer(params, lr=0.1),
    "eager": lambda params: sr.optim.AdamW(params, lr=0.02, backend="eager"),
}


@pytest.fixture(autouse=True)
def nothing_compiled_yet():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


def breaks() -> int:
    return sum(counters["graph_break"].values())


def made(maker: Callable[[Any], torch.optim.Optimizer]) -> Made:
    model = network()
    return model, maker(model.parameters())


def whole_step_of(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[Any, Any], torch.Tensor]:
    def step(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        loss = (model(inputs) - targets).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


@pytest.mark.parametrize("name", MAKERS)
def test_a_training_step_compiled_whole_is_the_same_and_never_compiled_again(name: str) -> None:
    """The rate changes at every step. Three breaks: zero_grad and backward, which torch does not trace, and step."""
    (model, optimizer), (plain, reference) = made(MAKERS[name]), made(MAKERS[name])
    step, uncompiled = torch.compile(whole_step_of(model, optimizer), backend=EAGER), whole_step_of(plain, reference)
    schedules = [ExponentialLR(optimizer, 0.8), ExponentialLR(reference, 0.8)]
    seen = []
    for number in range(STEPS):
        losses = [one(*batch(number)) for one in (step, uncompiled)]
        torch.testing.assert_close(*losses, rtol=1e-12, atol=0)
        for schedule in schedules:
            schedule.step()
        seen.append((graphs(), breaks()))
    assert seen == [(2, 3)] * STEPS  # graphs: the loss, and what comes after the step
    assert deviation(held(optimizer), held(reference)) <= 1e-12


@pytest.mark.parametrize("pair", PAIRS)
def test_a_compiled_run_follows_that_of_torch_and_resumes_bit_for_bit(pair: str) -> None:
    """torch's is not compiled: if it is, its rates and step counts are float32, and it strays from itself by 1e-5."""
    ours, torchs, options = PAIRS[pair]
    own, twin, other = [made(lambda params, make=make: make(params, **options)) for make in (ours, torchs, ours)]
    runs = [torch.compile(whole_step_of(*own), backend=AOT), whole_step_of(*twin)]
    for number in range(STEPS):
        if number == 3:
            saved = through_a_file([each.state_dict() for each in own])
            for each, state in zip(other, saved, strict=True):
                each.load_state_dict(state)
            runs.append(torch.compile(whole_step_of(*other), backend=AOT))
        for step in runs:
            step(*batch(number))
    assert deviation(own[0].parameters(), twin[0].parameters()) <= 1e-12
    assert identical(held(other[1]), held(own[1]))


@pytest.mark.parametrize("name", MAKERS)
def test_a_compiled_step_method_runs_as_it_is(name: str) -> None:
    (model, optimizer), (plain, reference) = made(MAKERS[name]), made(MAKERS[name])
    step = torch.compile(optimizer.step, backend=AOT)
    for number in range(STEPS):
        for group in (*optimizer.param_groups, *reference.param_groups):
            group["lr"] = 0.1 / (number + 1)
        for each, own in ((model, optimizer), (plain, reference)):
            own.zero_grad()
            loss_of(each, number).backward()
        step()
        reference.step()
    assert graphs() == 0
    assert identical(held(optimizer), held(reference))


def test_one_graph_around_a_step_is_refused_with_the_reason_and_nothing_is_written() -> None:
    model, optimizer = made(MAKERS["AdamW"])
    loss_of(model, 0).backward()
    before = held(optimizer)

    def stepped(x: torch.Tensor) -> torch.Tensor:
        optimizer.step()
        return x + 1

    with pytest.raises(torch._dynamo.exc.Unsupported, match="a step is one compiled kernel already"):
        torch.compile(stepped, backend=EAGER, fullgraph=True)(torch.ones(2))
    assert identical(held(optimizer), before)


@pytest.mark.skipif(OLD, reason="this torch runs a step that it cannot capture, without a word")
def test_a_step_alone_is_no_graph_and_asking_for_one_is_an_error() -> None:
    """torch's error; in torch 2.13 it comes after the step."""
    model, optimizer = made(MAKERS["AdamW"])
    loss_of(model, 0).backward()
    with pytest.raises((RuntimeError, torch._dynamo.exc.Unsupported), match=r"no compiled frames|one compiled kernel"):
        torch.compile(optimizer.step, backend=EAGER, fullgraph=True)()


def test_a_compiled_model_stays_compiled_inside_a_closure() -> None:
    """Also with a look-ahead, where the closure runs in the middle of the step."""
    for name in ("AdamW", "board.nesterov"):
        torch._dynamo.reset()
        counters.clear()
        (model, optimizer), (plain, reference) = made(MAKERS[name]), made(MAKERS[name])
        compiled = torch.compile(model, backend=AOT)
        for number in range(4):
            for each, own in ((compiled, optimizer), (plain, reference)):

                def closure(each: Any = each, own: Any = own, number: int = number) -> torch.Tensor:
                    own.zero_grad()
                    loss = loss_of(each, number)
                    loss.backward()
                    return loss

                own.step(closure)
        assert (graphs(), breaks()) == (1, 0)
        assert deviation(held(optimizer), held(reference)) <= 1e-12


def test_hooks_run_once_around_a_compiled_step() -> None:
    (model, optimizer), (plain, reference) = made(MAKERS["AdamW"]), made(MAKERS["AdamW"])
    told: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: told.append("before"))
    optimizer.register_step_post_hook(lambda *_: told.append("after"))
    step, uncompiled = torch.compile(whole_step_of(model, optimizer), backend=EAGER), whole_step_of(plain, reference)
    for number in range(STEPS):
        step(*batch(number))
        uncompiled(*batch(number))
    assert told == ["before", "after"] * STEPS
    assert deviation(held(optimizer), held(reference)) <= 1e-12


@pytest.mark.skipif(OLD, reason="this torch cannot trace a method that sets an attribute of its optimiser")
def test_a_subclass_with_a_step_of_its_own_is_traced_no_further_than_that() -> None:
    class Counting(sr.optim.AdamW):
        taken = 0

        def step(self, closure: Any = None) -> Any:
            self.taken += 1
            return super().step(closure)

    (model, optimizer), (plain, reference) = made(lambda params: Counting(params, lr=0.02)), made(MAKERS["AdamW"])
    reference.param_groups[0]["weight_decay"] = 0.01
    step, uncompiled = torch.compile(whole_step_of(model, optimizer), backend=EAGER), whole_step_of(plain, reference)
    for number in range(STEPS):
        step(*batch(number))
        uncompiled(*batch(number))
    assert optimizer.taken == STEPS
    assert deviation(held(optimizer), held(reference)) <= 1e-12


def test_many_optimisers_in_one_compiled_function_reach_no_limit() -> None:
    """dynamo gives up on a function that it compiled eight times; the step is compiled not even once."""
    models = [network() for _ in range(12)]
    optimizers = [MAKERS["AdamW"](model.parameters()) for model in models]

    @torch.compile(backend=EAGER)
    def update(optimizer: torch.optim.Optimizer) -> None:
        optimizer.step()

    for model, optimizer in zip(models, optimizers, strict=True):
        loss_of(model, 0).backward()
        update(optimizer)
        assert float(optimizer.state[next(model.parameters())]["step"]) == 1
    assert graphs() == 0


def test_outside_of_compiled_code_the_step_is_called_directly() -> None:
    """`torch.compiler.disable` wraps a function, which costs as much as a tenth of a small model's step."""
    assert sr.Optimizer.step.__code__.co_name == "step"
    assert not hasattr(sr.Optimizer.step, "__wrapped__")


def test_where_torch_cannot_mark_a_function_it_is_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(eval_frame, "set_code_exec_strategy")
    called = []

    @uncompiled
    def step(x: torch.Tensor) -> torch.Tensor:
        called.append(torch.compiler.is_compiling())
        return x + 1

    compiled = torch.compile(lambda x: step(x * 2) * 2, backend=EAGER)
    assert [float(compiled(torch.tensor(3.0))) for _ in range(3)] == [14.0] * 3
    assert called == [False] * 3
