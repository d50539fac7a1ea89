"""Steps in the backward pass: the bits of ordinary steps, few gradients in memory, what clips, and what is refused."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

import steprule as sr
from counted import calls
from steprule import board
from steprule.errors import HyperparameterError, ParameterError, RuleError, StepruleError

pytestmark = pytest.mark.cpu

Make = Callable[..., Any]


class Tied(torch.nn.Module):
    """A model that uses one weight twice, another only when it is told to, and one that is frozen."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.table = torch.nn.Embedding(30, 190)
        self.hidden = torch.nn.Linear(190, 190)  # more than one chunk
        self.now_and_then = torch.nn.Linear(190, 5)
        self.frozen = torch.nn.Parameter(torch.ones(3), requires_grad=False)
        self.to(dtype)

    def forward(self, step: int) -> torch.Tensor:
        x = torch.tanh(self.hidden(self.table(torch.tensor([0, 1, step]))))
        loss = (x @ self.table.weight.T).float().square().mean() * (step + 1)
        return loss + self.now_and_then(x).float().square().mean() if step % 2 else loss


def adamw(model: torch.nn.Module, **options: Any) -> Any:
    """Make AdamW with two groups of different rates."""
    table, *others = model.named_parameters()
    return sr.optim.AdamW([{"params": [table], "lr": 0.02}, {"params": others}], lr=0.01, **options)


def train(model: torch.nn.Module, optimizer: Any, steps: range) -> None:
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    for step in steps:
        optimizer.zero_grad()
        model(step).backward()
        optimizer.step()
        schedule.step()


def everything(model: torch.nn.Module, optimizer: Any) -> list[torch.Tensor]:
    own = [p for p in model.parameters() if p in optimizer.state]
    states = [optimizer.state[p][key] for p in own for key in sorted(optimizer.state[p])]
    return [tensor.detach().clone() for tensor in (*model.parameters(), *states)]


def alike(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(a, b, strict=True))


NARROW = {"rounding": "compensated8", "state": "8bit", "seed": 3}
OPTIONS: dict[str, tuple[torch.dtype, dict[str, Any]]] = {
    "as it is": (torch.float32, {}),
    "each tensor clipped, and watched": (torch.float32, {"clip": sr.clip_norm(max_norm=0.01), "watch": True}),
    "seven bytes": (torch.bfloat16, NARROW),
    "torch operations": (torch.float32, {"backend": "eager", "clip": sr.clip_value(limit=1e-3)}),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_bits_state_and_gauges_are_those_of_ordinary_steps_and_checkpoints_move_either_way(name: str) -> None:
    """Tied and frozen weights, some without a gradient now and then, groups, a schedule, draws by position."""
    dtype, options = OPTIONS[name]
    ends = []
    for first, second in ((False, False), (True, True), (True, False), (False, True)):
        model = Tied(dtype)
        optimizer = adamw(model, **options)
        if first:
            optimizer.step_in_backward()
        train(model, optimizer, range(3))
        again, saved = Tied(dtype), copy.deepcopy((model.state_dict(), optimizer.state_dict()))
        other = adamw(again, **options)
        again.load_state_dict(saved[0])
        other.load_state_dict(saved[1])
        if second:
            other.step_in_backward()
        train(again, other, range(3, 6))
        found = other.gauges()
        ends.append((everything(again, other), dict(found), found.parameters))
    for end in ends[1:]:
        assert alike(end[0], ends[0][0])
        assert end[1] == pytest.approx(ends[0][1], rel=1e-12)
        assert end[2] == ends[0][2]


def test_no_more_than_one_gradient_is_in_memory_and_seven_bytes_are_five() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(*[torch.nn.Linear(256, 256, bias=False) for _ in range(4)]).bfloat16()
    optimizer = sr.optim.AdamW(model.parameters(), **NARROW)
    alive: list[weakref.ref[torch.Tensor]] = []
    most: list[int] = []

    def look(parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        alive.append(weakref.ref(parameter.grad))
        most.append(sum(own.untyped_storage().nbytes() for ref in alive if (own := ref()) is not None))

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(look)
    optimizer.step_in_backward()
    for _ in range(2):
        model(torch.ones(3, 256, dtype=torch.bfloat16)).square().mean().backward()
        optimizer.step()
    assert max(most) == 2 * 256 * 256
    assert not any(ref() is not None for ref in alive)
    numbers = sum(parameter.numel() for parameter in model.parameters())
    held = [value for p in model.parameters() for value in (p, *optimizer.state[p].values())]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in held}
    assert sum(storages.values()) / numbers == pytest.approx(2 + 1 + 2 * 33 / 32, abs=1e-3)


# Clipping by the norm of the step before -------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numba_cpu", "eager", pytest.param("triton_gpu", marks=pytest.mark.interp)])
@pytest.mark.parametrize("released", [False, True])
def test_a_gradient_is_shortened_by_the_norm_of_the_step_before_or_its_own(backend: str, released: bool) -> None:
    torch.manual_seed(2)
    parameters = [torch.nn.Parameter(torch.zeros(size)) for size in (40, 3, 7)]
    optimizer = board.sgd.optimizer(parameters, lr=1.0, clip=sr.clip_last_global_norm(max_norm=0.5), backend=backend)
    if released:
        optimizer.step_in_backward()
    last = 0.0
    for scale in (1.0, 2.0, 50.0, 0.01, 0.01):
        gradients = [scale * torch.randn(p.shape) for p in parameters]
        before = [p.detach().clone() for p in parameters]
        sum((p * g).sum() for p, g in zip(parameters, gradients, strict=True)).backward()
        optimizer.step()
        optimizer.zero_grad()
        for p, old, g in zip(parameters, before, gradients, strict=True):
            expected = g * min(1.0, 0.5 / (max(last, float(g.norm())) + 1e-6))
            torch.testing.assert_close(old - p.detach(), expected, rtol=1e-5, atol=1e-6)
        last = float(torch.cat(gradients).norm())
        assert [float(optimizer.state[p]["last_norm"]) for p in parameters] == pytest.approx([last] * 3, rel=1e-5)
        assert optimizer.gauges()["gradient_norm"] == pytest.approx(last, rel=1e-5)


def test_what_a_tensor_remembers_of_itself_is_written_once_a_step() -> None:
    """A slot made of its own last value would show an end that came twice, or with a share instead of the whole."""

    @sr.rule
    def tracking(
        theta: Any, g: Any, trail: Any = sr.slot(rank="tensor"), count: Any = sr.slot(rank="tensor"), *, lr: float = 0.1
    ) -> Any:
        return theta - lr * g, trail + sr.global_norm(g), count + 1

    sides = []
    for released in (False, True):
        parameters = [torch.nn.Parameter(torch.ones(size)) for size in (3, 5)]
        optimizer = tracking.optimizer(parameters)
        if released:
            optimizer.step_in_backward()
        for _ in range(3):
            optimizer.zero_grad()
            sum(p.square().sum() for p in parameters).backward()
            optimizer.step()
        sides.append([float(value) for p in parameters for value in optimizer.state[p].values()])
    assert sides[0] == pytest.approx(sides[1], rel=1e-6)
    assert sides[1][1] == sides[1][3] == 3.0


# Refusals --------------------------------------------------------------------------------------------------------


def simple() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))


def descend(model: torch.nn.Module) -> None:
    model(torch.ones(2, 3)).square().mean().backward()


@sr.rule
def whole(theta: Any, g: Any, *, lr: float = 0.1) -> Any:
    return theta - lr * g / sr.global_norm(g)


@sr.rule
def kept(theta: Any, g: Any, covariance: Any = sr.slot(rank="left"), *, lr: float = 0.1) -> Any:
    return theta - lr * g, covariance + sr.matmul(g, sr.transpose(g))


REFUSED: dict[str, tuple[Make, str, str]] = {
    "clip": (lambda p: sr.optim.AdamW(p, clip=2.0), "needs ‖g‖ before", "optimizer.clip = sr.clip_norm(max_norm=2)"),
    "a rule's clip": (lambda p: board.adam.optimizer(p, clip=2.0), "needs ‖g‖", "clip_last_global_norm(max_norm=2)"),
    "a chain": (sr.chain(sr.clip_global_norm, board.sgd).optimizer, "needs ‖g‖ before", "sr.clip_last_global_norm"),
    "a rule": (whole.optimizer, "`whole` needs ‖g‖ before", "call step() after backward()"),
    "a norm beside a matrix": (sr.chain(sr.clip_last_global_norm, kept).optimizer, "needs ‖g‖ before", "clip_norm"),
    "skip": (lambda p: sr.optim.AdamW(p, nonfinite="skip"), "a guard", 'optimizer.nonfinite = "propagate"'),
    "raise": (lambda p: board.sgd.optimizer(p, nonfinite="raise"), "a guard", 'optimizer.nonfinite = "propagate"'),
}  # fmt: skip


@pytest.mark.null
@pytest.mark.parametrize("name", REFUSED)
def test_what_must_know_all_gradients_is_refused_and_the_lines_in_the_help_work(name: str) -> None:
    make, told, fix = REFUSED[name]
    optimizer = make(list(simple().parameters()))
    with pytest.raises(RuleError) as error:
        optimizer.step_in_backward()
    text = str(error.value)
    assert told in text
    assert "group 0" in text
    assert fix in text.partition("help: ")[2]
    assert optimizer._in_backward is None
    for line in text.partition("help: ")[2].splitlines():
        if line.strip().startswith("optimizer."):
            scope = {"optimizer": optimizer, "sr": sr}
            exec(line.partition("#")[0].partition(";")[0].strip(), scope)  # noqa: S102
            optimizer.step_in_backward().remove()


def test_an_implicit_rule_and_a_closure_at_the_look_ahead_point_are_refused() -> None:
    model = simple()
    with pytest.raises(HyperparameterError, match="no closure"):
        board.nesterov(look_ahead="implicit").optimizer(model.parameters()).step_in_backward()
    optimizer = board.nesterov.optimizer(model.parameters())
    optimizer.step_in_backward()
    with pytest.raises(RuleError, match="call backward"):
        optimizer.step(lambda: descend(model))
    with optimizer.at_iterate(), pytest.raises(ParameterError, match="backward"):
        descend(model)


def test_options_that_are_set_later_are_refused_too_or_hold_from_the_next_gradient_on() -> None:
    model = simple()
    optimizer = board.sgd.optimizer(model.parameters(), lr=1.0, backend="eager")
    optimizer.step_in_backward()
    descend(model)
    optimizer.step()
    for name, value in (("clip", 1.0), ("nonfinite", "skip")):
        before = getattr(optimizer, name)
        with pytest.raises(RuleError):
            setattr(optimizer, name, value)
        assert getattr(optimizer, name) == before
    optimizer.clip = sr.clip_value(limit=0.0)
    before = [p.detach().clone() for p in model.parameters()]
    descend(model)
    optimizer.step()
    assert alike([p.detach() for p in model.parameters()], before)


def test_a_second_gradient_before_the_step_has_ended_is_refused_and_names_the_parameter() -> None:
    model, once = simple(), simple()
    for own, times in ((model, 2), (once, 1)):
        optimizer = sr.optim.AdamW(own.named_parameters(), lr=0.1)
        optimizer.step_in_backward()
        descend(own)
        if times == 2:
            with pytest.raises(ParameterError, match=r"`2.bias` has been stepped(?s:.*)to accumulate"):
                descend(own)
            assert alike(list(own.parameters()), list(once_stepped()))
            optimizer.zero_grad()
            descend(own)  # zero_grad has ended it
            optimizer.step()


def once_stepped() -> Any:
    model = simple()
    optimizer = sr.optim.AdamW(model.parameters(), lr=0.1)
    descend(model)
    optimizer.step()
    return [p.detach() for p in model.parameters()]


class Broken(torch.autograd.Function):
    """Raises in the backward pass."""

    @staticmethod
    def forward(_: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(_: Any, gradient: torch.Tensor) -> torch.Tensor:
        raise MemoryError("no memory")


def test_a_backward_pass_that_breaks_off_has_stepped_those_before_and_zero_grad_ends_it() -> None:
    model = simple()
    optimizer = sr.optim.AdamW(model.parameters(), lr=0.1)
    optimizer.step_in_backward()
    before, expected = [p.detach().clone() for p in model.parameters()], once_stepped()
    with pytest.raises(MemoryError):
        model[2](Broken.apply(model[1](model[0](torch.ones(2, 3))))).square().mean().backward()
    assert alike([p.detach() for p in model.parameters()], [*before[:2], *expected[2:]])
    optimizer.zero_grad()
    descend(model)
    optimizer.step()
    assert [float(optimizer.state[p]["step"]) for p in model.parameters()] == [1.0, 1.0, 2.0, 2.0]


def test_a_bad_rate_in_any_group_is_refused_before_the_first_tensor_is_written() -> None:
    model = simple()
    optimizer = sr.optim.AdamW([{"params": [p]} for p in model.parameters()], lr=0.1)
    optimizer.step_in_backward()
    optimizer.param_groups[0]["lr"] = -1.0  # whose gradients come last
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(HyperparameterError, match="group 0"):
        descend(model)
    assert alike([p.detach() for p in model.parameters()], before)
    assert not optimizer.state


@pytest.mark.parametrize("make", [sr.optim.AdamW, board.sgd.optimizer])
def test_a_scaler_is_refused_in_words(make: Make) -> None:
    model = simple()
    optimizer = make(model.parameters(), lr=0.1)
    handle = optimizer.step_in_backward()
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(model(torch.ones(2, 3)).square().mean()).backward()
    with pytest.raises(ParameterError, match="GradScaler"):
        scaler.step(optimizer)
    handle.remove()
    assert not optimizer._step_supports_amp_scaling


def test_a_gradient_that_comes_back_after_the_backward_pass_is_refused() -> None:
    model = simple()
    optimizer = sr.optim.AdamW(model.named_parameters(), lr=0.1)
    optimizer.step_in_backward()
    descend(model)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    with pytest.raises(ParameterError, match=r"`0.weight` has been stepped, and has got a gradient since"):
        optimizer.step()


# One optimiser as before -----------------------------------------------------------------------------------------


def test_closures_hooks_hand_made_gradients_new_groups_and_the_way_back() -> None:
    model = simple()
    optimizer = sr.optim.AdamW(model[0].parameters(), lr=0.1)
    seen: list[int] = []
    optimizer.register_step_post_hook(lambda *_: seen.append(1))
    with pytest.raises(ParameterError, match="already"), optimizer.step_in_backward():
        optimizer.step_in_backward()
    assert optimizer._in_backward is None
    handle = optimizer.step_in_backward()
    assert optimizer.step(lambda: model(torch.ones(2, 3)).square().mean().backward() or 7) == 7
    optimizer.add_param_group({"params": list(model[2].parameters())})
    model[2].zero_grad()
    for _ in range(2):
        descend(model)  # the first of these finds the new group
        optimizer.step()
    assert [float(optimizer.state[p]["step"]) for p in model.parameters()] == [3.0, 3.0, 2.0, 2.0]
    assert all(p.grad is None for p in model.parameters())
    model[0].bias.grad = torch.ones(4)
    optimizer.step()
    assert [float(optimizer.state[p]["step"]) for p in model.parameters()] == [3.0, 4.0, 2.0, 2.0]
    for copied in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):  # noqa: S301
        own = copied.param_groups[0]["params"][0]
        own.sum().backward()
        assert own.grad is not None
        copied.step()
        assert float(copied.state[own]["step"]) == 4.0
    handle.remove()
    handle.remove()
    descend(model)
    assert all(p.grad is not None for p in model.parameters())
    optimizer.step()
    assert [float(optimizer.state[p]["step"]) for p in model.parameters()] == [4.0, 5.0, 3.0, 3.0]
    assert len(seen) == 5


def test_a_look_ahead_without_closures_has_the_bits_of_ordinary_steps() -> None:
    ends = []
    for released in (False, True):
        model = simple()
        optimizer = board.nesterov.optimizer(model.parameters(), lr=0.1, backend="eager")
        if released:
            optimizer.step_in_backward()
        for _ in range(3):
            optimizer.zero_grad()
            descend(model)
            optimizer.step()
        ends.append(everything(model, optimizer))
    assert alike(*ends)


def test_groups_with_rules_of_their_own_are_stepped_by_these_and_share_the_norm_that_is_remembered() -> None:
    ends = []
    for released in (False, True):
        model = simple()
        groups = [{"params": list(model[0].parameters())}, {"params": list(model[2].parameters()), "rule": board.sgd}]
        clip = sr.clip_last_global_norm(max_norm=0.01)
        optimizer = sr.Optimizer(groups, board.adam, lr=0.1, clip=clip, backend="eager")
        if released:
            optimizer.step_in_backward()
        for _ in range(3):
            optimizer.zero_grad()
            descend(model)
            optimizer.step()
        ends.append(everything(model, optimizer))
        assert len({float(optimizer.state[p]["last_norm"]) for p in model.parameters()}) == 1
    torch.testing.assert_close(*ends, rtol=1e-6, atol=1e-7)


def test_a_gradient_costs_as_much_among_many_tensors_as_among_few() -> None:
    def spent(count: int) -> float:
        parameters = [torch.nn.Parameter(torch.ones(3)) for _ in range(count)]
        optimizer = sr.optim.AdamW(parameters)
        optimizer.step_in_backward()

        def once() -> None:
            torch.stack(parameters).sum().backward()
            optimizer.step()

        once()
        once()
        return calls(once) / count

    assert spent(64) < 1.1 * spent(16)


def test_a_model_and_its_optimiser_can_be_collected_as_garbage() -> None:
    model = simple()
    optimizer = sr.optim.AdamW(model.parameters())
    optimizer.step_in_backward()
    descend(model)
    optimizer.step()
    gone = weakref.ref(optimizer), weakref.ref(model[0].weight)
    del optimizer, model
    gc.collect()
    assert [own() for own in gone] == [None, None]


def test_a_gradient_that_another_hook_has_taken_is_refused() -> None:
    model = simple()
    optimizers = [sr.optim.AdamW(model.named_parameters()) for _ in range(2)]
    for optimizer in optimizers:
        optimizer.step_in_backward()
    with pytest.raises(StepruleError, match=r"`2.bias` has no gradient"):
        descend(model)
