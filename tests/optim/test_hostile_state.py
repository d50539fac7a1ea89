"""State dictionaries from files that others wrote: refused whole, by name, with nothing run, shared or changed."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from truth import bits, corrected_adam, fill_gradients, make

import steprule as sr
from steprule import hyper, rule, slot
from steprule.errors import HyperparameterError, RuleError, StateError, StepruleError
from steprule.rule.formula import _restore

pytestmark = pytest.mark.cpu

Saved = dict[str, Any]
Spoil = Callable[[Saved], Any]


@rule
def of_three_ranks(theta, g, exp_avg, k=slot(rank="tensor", init=2.0), *, lr=hyper(0.1, low=0), t):
    """Keep a slot of every rank: an array, a number a tensor, and a count on the host."""
    exp_avg = 0.9 * exp_avg + g
    return theta - lr * exp_avg / (k + t), exp_avg, k + sr.norm(g)


OPTIMISERS: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
    "torch's Adam": lambda groups: sr.optim.Adam(groups, weight_decay=0.1),
    "a rule": lambda groups: sr.Optimizer(groups, of_three_ranks),
}


def trained(name: str, steps: int) -> tuple[list[torch.nn.Parameter], Any]:
    torch.manual_seed(steps)
    parameters = make((5,), (2, 3), ())
    optimizer = OPTIMISERS[name]([{"params": parameters[:1], "lr": 0.05}, {"params": parameters[1:]}])
    for _ in range(steps):
        fill_gradients(parameters)
        optimizer.step()
    return parameters, optimizer


def saved_by(optimizer: Any) -> Saved:
    state = optimizer.state_dict()
    return {
        "state": {key: dict(own) for key, own in state["state"].items()},
        "param_groups": [dict(group) for group in state["param_groups"]],
    }


# What is wrong with a file ---------------------------------------------------------------------------------


def nested(depth: int) -> list[Any]:
    inside: list[Any] = []
    for _ in range(depth):
        inside = [inside]
    return inside


def quiet(build: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build()


def with_storage(size: int) -> torch.Tensor:
    tensor = torch.zeros(2, 3)
    tensor.untyped_storage().resize_(size)
    return tensor


def put(value: Any, key: str = "exp_avg") -> Spoil:
    """Put a value in place of the second parameter's."""
    return lambda saved: saved["state"][1].__setitem__(key, value() if callable(value) else value)


def group(**values: Any) -> Spoil:
    return lambda saved: saved["param_groups"][1].update(values)


def states(make_one: Callable[[Saved], Any]) -> Spoil:
    return lambda saved: saved.update(state=make_one(saved["state"]))


THEIRS = "  parameter 0 of group 1, state key "
OF_A_PARAMETER: dict[str, Spoil] = {
    "short": put(torch.zeros(3)),
    "long": put(torch.zeros(2, 300)),
    "transposed": put(torch.zeros(3, 2)),
    "one number": put(torch.zeros(())),
    "expanded, too large": put(torch.zeros(1).expand(2**40)),
    "on the meta device": put(lambda: torch.zeros(2, 3, device="meta")),
    "fake": put(lambda: FakeTensorMode().from_tensor(torch.zeros(2, 3))),
    "without memory": put(lambda: with_storage(0)),
    "with too little memory": put(lambda: with_storage(8)),
    "sparse": put(lambda: torch.zeros(2, 3).to_sparse()),
    "sparse rows": put(lambda: quiet(lambda: torch.zeros(2, 3).to_sparse_csr())),
    "mkldnn": put(lambda: torch.zeros(2, 3).to_mkldnn()),
    "quantised": put(lambda: quiet(lambda: torch.quantize_per_tensor(torch.zeros(2, 3), 0.1, 0, torch.qint8))),
    "nested tensors": put(lambda: quiet(lambda: torch.nested.nested_tensor([torch.zeros(3), torch.zeros(3)]))),
    "integers": put(torch.zeros(2, 3, dtype=torch.int64)),
    "truth values": put(torch.zeros(2, 3, dtype=torch.bool)),
    "complex": put(torch.zeros(2, 3, dtype=torch.complex64)),
    "a NumPy array": put(lambda: torch.zeros(2, 3).numpy()),
    "a list": put([[0.0] * 3] * 2),
    "a list without end": put(lambda: nested(10_000)),
    "a number": put(1.5),
    "a string": put("zeros"),
    "a dict": put({}),
    "None": put(None),
    "missing": lambda saved: saved["state"][1].pop("exp_avg"),
    "no count": lambda saved: saved["state"][1].pop("step"),
    "two counts": put(torch.zeros(2), "step"),
    "a count that is NaN": put(torch.tensor(torch.nan), "step"),
    "a count without end": put(torch.inf, "step"),
    "a negative count": put(torch.tensor(-3.0), "step"),
    "a count of 400 digits": put(10**400, "step"),
    "a count that is true": put(True, "step"),
    "a count in words": put("three", "step"),
    "a complex count": put(torch.tensor(1j), "step"),
    "a stranger without end": put(lambda: nested(10_000), "note"),
    "a stranger without memory": put(lambda: with_storage(0), "note"),
}
OF_THE_WHOLE: dict[str, Spoil] = {
    "another parameter's state": states(lambda own: {0: own[1], 1: own[0], 2: own[2]}),
    "state of nobody": states(lambda own: {**own, 7: own[1]}),
    "state of a name": states(lambda own: {**own, "weight": own[1]}),
    "keys that went through JSON": states(lambda own: {str(key): value for key, value in own.items()}),
    "states in a list": states(lambda own: list(own.values())),
    "no states": states(lambda own: None),
    "a list for a state": states(lambda own: {**own, 1: [1, 2]}),
    "a string for a state": states(lambda own: {**own, 1: "abc"}),
    "a tensor for a state": states(lambda own: {**own, 1: torch.ones(3)}),
    "a number for a state": states(lambda own: {**own, 1: 5}),
    "no key for states": lambda saved: saved.pop("state"),
    "no groups": lambda saved: saved.pop("param_groups"),
    "groups None": lambda saved: saved.update(param_groups=None),
    "groups in a dict": lambda saved: saved.update(param_groups={}),
    "a group less": lambda saved: saved["param_groups"].pop(),
    "a group more": lambda saved: saved["param_groups"].append({**saved["param_groups"][1], "params": [3]}),
    "a group of pairs": lambda saved: saved["param_groups"].__setitem__(0, [("params", [0])]),
    "a parameter less": group(params=[1]),
    "a parameter more": group(params=[1, 2, 3]),
    "a parameter twice": group(params=[1, 1]),
    "a parameter of the other group": group(params=[0, 1]),
    "a number for parameters": group(params=1),
    "letters for parameters": group(params="12"),
    "lists for parameters": group(params=[[1], [2]]),
    "None for parameters": group(params=None),
    "a rate in words": group(lr="fast"),
    "no rate": group(lr=None),
    "a rate that is NaN": group(lr=torch.nan),
    "a rate that is negative": group(lr=-0.1),
    "two rates": group(lr=torch.ones(2)),
    "a group without end": group(note=nested(10_000)),
}
OF_ADAM: dict[str, Spoil] = {
    "one number for betas": group(betas=0.9),
    "one beta": group(betas=(0.9,)),
    "no betas": group(betas=None),
    "betas in letters": group(betas="ab"),
    "a beta of one": group(betas=(0.9, 1.0)),
    "a decay in words": group(weight_decay="much"),
}
CASES = [(name, kind, spoil) for name in OPTIMISERS for kind, spoil in (OF_A_PARAMETER | OF_THE_WHOLE).items()]
CASES += [("torch's Adam", kind, spoil) for kind, spoil in OF_ADAM.items()]


@pytest.mark.hostile("S1", "S4")
@pytest.mark.parametrize(("name", "kind", "spoil"), CASES, ids=[f"{name}, {kind}" for name, kind, _ in CASES])
def test_a_spoiled_state_is_refused_by_name_and_nothing_of_it_is_loaded(name: str, kind: str, spoil: Spoil) -> None:
    saved = saved_by(trained(name, 3)[1])
    saved["param_groups"][0]["lr"] = 0.77
    saved["state"][0]["exp_avg"] = torch.full((5,), 0.5)
    spoil(saved)
    (parameters, optimizer), (twins, control) = trained(name, 2), trained(name, 2)
    with pytest.raises(StepruleError) as caught:
        optimizer.load_state_dict(saved)
    assert isinstance(caught.value, StateError | HyperparameterError)
    assert caught.value.fix
    if kind in OF_A_PARAMETER:
        assert caught.value.where.startswith(THEIRS)
    assert bits(optimizer) == bits(control)
    assert [own["lr"] for own in optimizer.param_groups] == [own["lr"] for own in control.param_groups]
    assert all(isinstance(key, torch.Tensor) for key in optimizer.state)
    for side, own in ((parameters, optimizer), (twins, control)):
        torch.manual_seed(9)
        fill_gradients(side)
        own.step()
    assert bits(optimizer) == bits(control)


def test_more_than_forty_ways_to_spoil_a_state_are_tried() -> None:
    assert len(OF_A_PARAMETER) + len(OF_THE_WHOLE) + len(OF_ADAM) >= 40


# What is loaded --------------------------------------------------------------------------------------------


@pytest.mark.hostile("S2")
@pytest.mark.parametrize("name", OPTIMISERS)
def test_two_optimisers_that_loaded_one_state_share_none_of_it(name: str) -> None:
    """Not even what the rule does not know: a tensor beside the slots, a list in a group."""
    _, source = trained(name, 3)
    saved = saved_by(source)
    saved["state"][1]["note"] = torch.ones(3)
    saved["param_groups"][0]["note"] = [1]
    pairs = [trained(name, 1) for _ in range(2)]
    for _, optimizer in pairs:
        optimizer.load_state_dict(saved)
    (parameters, stepped), (_, resting) = pairs
    before = bits(resting)
    fill_gradients(parameters)
    stepped.step()
    stepped.state[parameters[1]]["note"].zero_()
    stepped.param_groups[0]["note"].append(2)
    assert bits(resting) == before
    assert resting.param_groups[0]["note"] == [1]
    assert saved["state"][1]["note"].tolist() == [1.0] * 3
    memory = [
        {value.untyped_storage().data_ptr() for own in optimizer.state.values() for value in own.values()}
        for optimizer in (source, stepped, resting)
    ]
    assert not memory[0] & memory[1]
    assert not memory[1] & memory[2]


class Payload:
    """What a pickle can hold: a call that is made when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.hostile("S4")
def test_a_state_with_a_payload_is_refused_by_the_loader_that_the_documents_name(tmp_path: Path) -> None:
    _, optimizer = trained("a rule", 2)
    saved = saved_by(optimizer)
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    for place in (saved["state"][1], saved["param_groups"][0], saved):
        place["note"] = Payload(tmp_path / "it-ran")
        spoiled = io.BytesIO()
        torch.save(saved, spoiled)
        spoiled.seek(0)
        with pytest.raises(Exception, match=r"Weights only load failed"):
            torch.load(spoiled, weights_only=True)
        del place["note"]
    assert not (tmp_path / "it-ran").exists()
    buffer.seek(0)
    optimizer.load_state_dict(torch.load(buffer, weights_only=True))


@pytest.mark.null
@pytest.mark.hostile("S4")
@pytest.mark.parametrize(("module", "name"), [("os", "system"), ("builtins", "eval"), ("steprule", "no_such_rule")])
def test_unpickling_a_rule_gives_rules_and_calls_nothing_else(module: str, name: str) -> None:
    with pytest.raises(RuleError, match="is not there any more"):
        _restore(module, name, {"command": "exit 1"})


@pytest.mark.hostile("S11")
def test_a_run_goes_on_bit_for_bit_with_another_number_of_threads() -> None:
    """Saved by one thread, resumed by one, two and three; a norm over many chunks joins their work."""
    start = [parameter.detach() for parameter in make((300_001,), (70_001,))]

    def made(threads: int) -> tuple[list[torch.nn.Parameter], sr.Optimizer]:
        torch.set_num_threads(threads)
        parameters = [torch.nn.Parameter(tensor.clone()) for tensor in start]
        return parameters, sr.Optimizer(parameters, corrected_adam, clip=0.1)

    def steps(parameters: list[torch.nn.Parameter], optimizer: sr.Optimizer, seed: int) -> None:
        torch.manual_seed(seed)
        for _ in range(2):
            fill_gradients(parameters)
            optimizer.step()

    first, optimizer = made(1)
    steps(first, optimizer, 1)
    saved, ends = optimizer.state_dict(), []
    for threads in (1, 2, 3):
        parameters, other = made(threads)
        for parameter, known in zip(parameters, first, strict=True):
            parameter.data.copy_(known.detach())
        other.load_state_dict(saved)
        steps(parameters, other, 2)
        ends.append(bits(other))
    assert ends[0] == ends[1] == ends[2]


@pytest.mark.parametrize("wrong", [3, None, "text", [1], torch.ones(5)], ids=["3", "None", "text", "list", "tensor"])
@pytest.mark.parametrize("ask", [lambda optimizer: optimizer.step(), sr.explain], ids=["step", "explain"])
def test_what_is_no_state_in_the_place_of_one_is_refused_by_name(wrong: Any, ask: Callable[[Any], Any]) -> None:
    parameters = [torch.nn.Parameter(torch.ones(5)) for _ in range(2)]
    optimizer = sr.optim.SGD(parameters, lr=0.1, momentum=0.9)
    for parameter in parameters:
        parameter.grad = torch.ones(5)
    optimizer.step()
    optimizer.state[parameters[1]] = wrong
    before = [parameter.detach().clone() for parameter in parameters]
    with pytest.raises(StateError, match="the state of parameter 1 of group 0 is a"):
        ask(optimizer)
    assert all(map(torch.equal, before, parameters))
