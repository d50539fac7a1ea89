"""torch's protocol as it is abused: closures and hooks with side effects, odd arguments, extremes of clipping."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from truth import Truth, bits, corrected_adam, fill_gradients, make, raw, step_both

import steprule as sr
from steprule import board
from steprule.errors import HyperparameterError, NonFiniteError, ParameterError

pytestmark = pytest.mark.cpu


# Parameters ----------------------------------------------------------------------------------------------

model = torch.nn.Linear(3, 2)
ARGUMENTS: dict[str, Callable[[], Any]] = {
    "a generator": lambda: (parameter for parameter in model.parameters()),
    "named parameters": model.named_parameters,
    "values of a dict": lambda: dict(model.named_parameters()).values(),
    "a tuple": lambda: tuple(model.parameters()),
    "a dict of names": lambda: dict(model.named_parameters()),
    "names alone": lambda: list(dict(model.named_parameters())),
    "a set": lambda: {"params": set(model.parameters())},
    "a group with a set": lambda: [{"params": set(model.parameters())}],
    "a group with one tensor": lambda: [{"params": model.weight}],
    "a group without params": lambda: [{"lr": 0.1}],
    "an empty list": list,
    "an empty generator": lambda: iter(()),
    "one tensor": lambda: model.weight,
    "a module": lambda: model,
    "nothing": lambda: None,
    "numbers": lambda: [1.0, 2.0],
    "a product of parameters": lambda: [model.weight * 2],
    "names and tensors mixed": lambda: [("a", model.weight), model.bias],
}


@pytest.mark.null
@pytest.mark.hostile("P6")
@pytest.mark.parametrize("kind", ARGUMENTS)
def test_params_in_any_form_are_taken_or_refused_with_torchs_own_words(kind: str) -> None:
    """But for a module, which torch refuses: here it stands for all of its parameters."""
    found: list[Any] = []
    for make_one in (
        lambda params: torch.optim.SGD(params, lr=0.1),
        lambda params: board.sgd.optimizer(params, lr=0.1),
    ):
        try:
            groups = make_one(ARGUMENTS[kind]()).param_groups
            found.append([[id(parameter) for parameter in group["params"]] for group in groups])
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            found.append((type(error), str(error)))
    if kind == "a module":
        assert found[0] == (TypeError, "'Linear' object is not iterable")
        found[0] = [[id(model.weight), id(model.bias)]]
    assert found[0] == found[1]


# Closures ------------------------------------------------------------------------------------------------


@pytest.mark.hostile("P7")
@pytest.mark.parametrize("value", [1.5, None, "text", torch.tensor(2.0, requires_grad=True), [1]], ids=repr)
def test_whatever_a_closure_returns_is_handed_on(value: Any) -> None:
    for rule in (board.adam, board.nesterov):
        assert rule.optimizer(make((2,))).step(lambda: value) is value


@pytest.mark.hostile("P7")
@pytest.mark.parametrize("none", [True, False])
@pytest.mark.parametrize("rule", [corrected_adam, board.nesterov], ids=lambda rule: rule.name)
def test_a_closure_that_clears_the_gradients_leaves_nothing_or_zeros_to_step_on(rule: Any, none: bool) -> None:
    (parameter,) = make((3,))
    optimizer = rule.optimizer([parameter])

    def closure() -> float:
        (parameter**2).sum().backward()
        optimizer.zero_grad(set_to_none=none)
        return 1.0

    before = raw(parameter)
    assert optimizer.step(closure) == 1.0
    assert raw(parameter) == before
    assert float(optimizer.state.get(parameter, {}).get("step", 0)) == (not none and rule is corrected_adam)


@pytest.mark.hostile("P7")
def test_a_closure_may_itself_step_replace_data_and_add_groups() -> None:
    """All of it happens before the step that called it, which then sees what is there."""
    (first,), (late,) = make((3,), dtype=torch.float64), make((2,), dtype=torch.float64)
    optimizer = corrected_adam.optimizer([first])
    fill_gradients([first])
    optimizer.step()

    def closure() -> None:
        optimizer.step()
        first.data = first.data.clone()
        late.grad = torch.ones_like(late)
        if len(optimizer.param_groups) == 1:
            optimizer.add_param_group({"params": [late], "lr": 0.3})

    old = first.detach()
    optimizer.step(closure)
    assert [float(optimizer.state[parameter]["step"]) for parameter in (first, late)] == [3, 1]
    kept = old.clone()
    optimizer.step(closure)
    assert torch.equal(old, kept)
    assert [float(optimizer.state[parameter]["step"]) for parameter in (first, late)] == [5, 3]


# Hooks ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=["its own hooks", "hooks on all optimisers"])
def hooked(request: pytest.FixtureRequest) -> Any:
    """Give an optimiser, and what registers hooks before and after its steps; they are removed in the end."""
    from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

    (parameter,) = make((3,), dtype=torch.float64)
    optimizer = corrected_adam.optimizer([parameter])
    handles: list[Any] = []

    def registered(register: Callable[..., Any]) -> Callable[..., Any]:
        return lambda hook: handles.append(register(hook)) or handles[-1]

    before, after = register_optimizer_step_pre_hook, register_optimizer_step_post_hook
    if request.param == "its own hooks":
        before, after = optimizer.register_step_pre_hook, optimizer.register_step_post_hook
    yield parameter, optimizer, registered(before), registered(after)
    for handle in handles:
        handle.remove()


@pytest.mark.hostile("P8")
def test_hooks_that_change_gradients_and_raise_keep_the_order_and_the_counts(hooked: Any) -> None:
    parameter, optimizer, before, after = hooked
    truth, told = Truth(optimizer), list[str]()

    def change(*_: Any) -> None:
        told.append("change")
        parameter.grad = torch.full_like(parameter, 0.5)

    def fail(*_: Any) -> None:
        told.append("fail")
        raise ZeroDivisionError

    before(change)
    early = before(fail)
    held = bits(optimizer)
    with pytest.raises(ZeroDivisionError):
        optimizer.step()
    assert bits(optimizer) == held
    early.remove()
    late = after(fail)
    truth.step()
    with pytest.raises(ZeroDivisionError):
        optimizer.step()
    truth.agrees()  # the step was over when its hook failed: parameter, slots and count all moved
    late.remove()
    step_both(optimizer, truth)
    assert float(optimizer.state[parameter]["step"]) == 2
    assert told == ["change", "fail", "change", "fail", "change"]


@pytest.mark.hostile("P8")
@pytest.mark.parametrize("alone", [True, False])
def test_a_hook_that_removes_itself_leaves_parameter_slots_and_count_in_step(hooked: Any, alone: bool) -> None:
    """Alone it runs once. Before another hook torch, which walks over what it is removing from, raises."""
    parameter, optimizer, before, after = hooked
    truth, told = Truth(optimizer), list[str]()

    def register(where: Callable[..., Any], name: str) -> None:
        handle = where(lambda *_: told.append(name) or handle.remove())
        if not alone:
            where(lambda *_: None)

    for where, name in ((before, "before"), (after, "after")):
        register(where, name)
        fill_gradients([parameter])
        if alone or name == "after":
            truth.step()
        with nullcontext() if alone else pytest.raises(RuntimeError, match="mutated during iteration"):
            optimizer.step()
        truth.agrees()
    fill_gradients([parameter])
    step_both(optimizer, truth)
    assert told == ["before", "after"]
    assert float(optimizer.state[parameter]["step"]) == 2 + alone


@pytest.mark.hostile("P8", "C6")
def test_a_step_from_a_hook_of_the_backward_pass_is_the_step_after_it() -> None:
    """One optimiser a parameter, stepped as soon as its gradient is there, in whatever thread that is."""
    ends = []
    for inside in (False, True):
        torch.manual_seed(1)
        network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double()
        optimizers = {parameter: corrected_adam.optimizer([parameter]) for parameter in network.parameters()}

        def step(parameter: torch.Tensor, optimizers: Any = optimizers) -> None:
            optimizers[parameter].step()
            parameter.grad = None

        if inside:
            for parameter in optimizers:
                parameter.register_post_accumulate_grad_hook(step)

        def train(network: Any = network, optimizers: Any = optimizers, inside: bool = inside) -> None:
            for _ in range(4):
                network(torch.ones(2, 4, dtype=torch.float64)).square().mean().backward()
                for parameter in () if inside else optimizers:
                    step(parameter, optimizers)

        thread = threading.Thread(target=train)
        thread.start()
        thread.join()
        ends.append([raw(parameter) for parameter in network.parameters()])
        assert {float(o.state[p]["step"]) for p, o in optimizers.items()} == {4.0}
    assert ends[0] == ends[1]


# Numbers -------------------------------------------------------------------------------------------------


def one_step(values: list[float], dtype: torch.dtype = torch.float32, **options: Any) -> list[float]:
    parameter = torch.nn.Parameter(torch.zeros(len(values), dtype=dtype))
    parameter.grad = torch.tensor(values, dtype=dtype)
    board.sgd.optimizer([parameter], lr=1.0, **options).step()
    return (-parameter.detach().double()).tolist()


LENGTHS: dict[str, tuple[list[float], torch.dtype, Any, list[float]]] = {
    "zero": ([0.0, 0.0], torch.float32, 1.0, [0.0, 0.0]),
    "zero, always rescaled": ([0.0, 0.0], torch.float32, board.clip_norm, [0.0, 0.0]),
    "1e20 in float32": ([3e20, 4e20], torch.float32, 1.0, [0.6, 0.8]),
    "the largest float32": ([3.4e38] * 4, torch.float32, 1.0, [0.5] * 4),
    "300 in float16": ([300.0] * 4, torch.float16, 1.0, [0.5] * 4),
    "65504 in float16": ([65504.0] * 4, torch.float16, 1.0, [0.5] * 4),
    "1e-30, always rescaled": ([3e-30, 4e-30], torch.float32, board.clip_norm, [0.6, 0.8]),
    "length 0 asked for": ([3.0, 4.0], torch.float32, 0.0, [0.0, 0.0]),
    "a huge bound": ([3.0, 4.0], torch.float32, 1e300, [3.0, 4.0]),
}


@pytest.mark.hostile("P11")
@pytest.mark.parametrize("kind", LENGTHS)
def test_a_norm_is_exact_where_its_square_has_no_float32(kind: str) -> None:
    values, dtype, clip, expected = LENGTHS[kind]
    assert one_step(values, dtype, clip=clip) == pytest.approx(expected, rel=1e-6, abs=0)


@pytest.mark.hostile("P11")
@pytest.mark.parametrize("bound", [math.inf, -1.0, math.nan, -0.5, torch.tensor(math.nan)], ids=str)
def test_a_bound_that_is_no_length_is_refused(bound: Any) -> None:
    if not isinstance(bound, torch.Tensor):
        with pytest.raises(HyperparameterError, match="`max_norm`"):
            one_step([1.0], clip=bound)
    parameters = make((2,))
    optimizer = board.sgd.optimizer(parameters, clip=1.0)
    optimizer.param_groups[0]["max_norm"] = bound
    fill_gradients(parameters)
    before = bits(optimizer)
    with pytest.raises(HyperparameterError, match="`max_norm`"):
        optimizer.step()
    assert bits(optimizer) == before


@pytest.mark.hostile("P11", "P10")
@pytest.mark.parametrize(
    "values", [[math.inf, 1.0], [math.nan, 1.0], [math.inf, math.nan], [-math.inf, math.inf]], ids=str
)
def test_a_norm_that_is_not_finite_spreads_as_in_torch_or_stops_the_step(values: list[float]) -> None:
    theirs = torch.nn.Parameter(torch.zeros(2))
    theirs.grad = torch.tensor(values)
    torch.nn.utils.clip_grad_norm_([theirs], 1.0)
    assert torch.equal(torch.tensor(one_step(values, clip=1.0)).isnan(), theirs.grad.isnan())
    assert one_step(values, clip=1.0, nonfinite="skip") == [0.0, 0.0]
    with pytest.raises(NonFiniteError, match="parameter 0 of group 0"):
        one_step(values, clip=1.0, nonfinite="raise")


@pytest.mark.hostile("P11")
def test_clipping_without_any_gradient_is_no_step() -> None:
    parameters = make((2,), (0,))
    optimizer = sr.Optimizer(parameters, corrected_adam, clip=1.0, nonfinite="raise")
    before = bits(optimizer)
    optimizer.step()
    assert bits(optimizer) == before


@pytest.mark.hostile("P12")
@pytest.mark.parametrize("again", [False, True], ids=["steps that go on", "a step after every load"])
def test_the_count_of_a_rule_goes_on_beyond_24_bits(again: bool) -> None:
    """Where float32, whose integers end there, would stand still."""
    (parameter,) = make((3,), dtype=torch.float64)
    optimizer = corrected_adam.optimizer([parameter])
    fill_gradients([parameter])
    optimizer.step()
    optimizer.state[parameter]["step"] = torch.tensor(2.0**24 - 2, dtype=torch.float64)
    seen = []
    for _ in range(5):
        if again:
            optimizer.load_state_dict(optimizer.state_dict())
        fill_gradients([parameter])
        optimizer.step()
        seen.append(float(optimizer.state[parameter]["step"]) - 2**24)
    assert seen == [-1, 0, 1, 2, 3]


@pytest.mark.hostile("P12")
@pytest.mark.parametrize("name", ["Adam", "Adagrad", "ASGD"])
def test_the_count_of_torchs_classes_ends_where_torchs_does_and_not_before(name: str) -> None:
    """Their count is float32, because torch's is; at 2**24 it rests, and so do both sides' numbers."""
    ours = [torch.nn.Parameter(torch.ones(3))]
    theirs = [torch.nn.Parameter(torch.ones(3))]
    own, twin = getattr(sr.optim, name)(ours), getattr(torch.optim, name)(theirs, foreach=False)
    for number in range(6):
        for (parameter,), optimizer in ((ours, own), (theirs, twin)):
            parameter.grad = torch.full((3,), 0.5)
            optimizer.step()
            if number == 1:
                optimizer.state[parameter]["step"].fill_(2.0**24 - 2)
    assert float(own.state[ours[0]]["step"]) >= float(twin.state[theirs[0]]["step"]) == 2**24
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=1e-6)


@pytest.mark.hostile("P4")
def test_one_parameter_in_two_places_is_never_stepped_twice_side_by_side() -> None:
    (parameter,) = make((3,))
    parameter.grad = torch.ones(3)
    before = raw(parameter)
    with pytest.raises(ValueError, match="more than one parameter group"):
        board.sgd.optimizer([{"params": [parameter]}, {"params": [parameter]}])
    with pytest.warns(UserWarning, match="duplicate parameters"):
        optimizer = board.sgd.optimizer([parameter, parameter])
    with pytest.raises(ParameterError, match="share memory") as caught:
        optimizer.step()
    assert "pass it once" in caught.value.fix
    assert raw(parameter) == before
