"""`explain(optimizer)` says what runs: held, on a table of optimisers, to batches that count what they do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.nn import Parameter

import steprule as sr
from steprule import board, rule, slot, transform
from steprule.backends import eager, numba_cpu
from steprule.backends.eager import EagerBatch
from steprule.optim.explain import GROUP_KEYS, KEYS
from steprule.optim.shards import local

pytestmark = pytest.mark.null

RAN: dict[torch.Tensor, Counted] = {}
"""The batch that last updated a parameter."""


class Counted(EagerBatch):
    """A batch that says which passes it has swept; it stands for one of kernels, which would have to be compiled."""

    def __init__(self, program: Any, arrays: Any, rows: Any, where: Any = None) -> None:
        super().__init__(program, arrays, rows, where)
        self.swept: list[int] = []
        RAN.update(dict.fromkeys(arrays[self.plan.graph.parameter], self))

    def sweep(self, index: int) -> None:
        self.swept.append(index)
        super().sweep(index)

    def bytes(self, index: int, parameter: torch.Tensor) -> int:
        """Return the bytes an element of the arrays that a pass reads and writes for a parameter."""
        place = next(i for i, own in enumerate(self.arrays[self.plan.graph.parameter]) if own is parameter)
        item = self.plan.passes[index]
        names = [*item.reads, *(name for name, _ in item.writes)]
        held = self.arrays | {self.plan.graph.gradient: self.arrays[self.plan.graph.parameter]}
        beside = held.get("remainder")
        extra = 0 if beside is None else names.count(self.plan.graph.parameter) * beside[place].element_size()
        return extra + sum(held[name][place].element_size() for name in names)


class Kernel(Counted):
    """One of kernels: what it was made with is kept."""

    def __init__(self, kernel: Any, arrays: Any, rows: Any, where: Any = None) -> None:
        super().__init__(kernel.program, arrays, rows, where)
        self.source = kernel.source


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(numba_cpu, "CpuBatch", Kernel)
    monkeypatch.setattr(eager, "EagerBatch", Counted)
    yield
    RAN.clear()


def make(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Parameter]:
    return [Parameter(torch.ones(shape, dtype=dtype)) for shape in shapes or ((2, 3), (4,))]


def gapped() -> Parameter:
    return Parameter(torch.ones(6)[::2])


def loaded_wide() -> sr.Optimizer:
    """Float64 state beside float32 parameters: a checkpoint of another type."""
    saved = sr.optim.Adam(wide := make(dtype=torch.float64))
    step(wide, saved)
    optimizer = sr.optim.Adam(make(), nonfinite="skip")
    optimizer.load_state_dict(saved.state_dict())
    return optimizer


def of_somebody_else() -> sr.Optimizer:
    """State that others have put there, in part and under keys of their own."""
    optimizer = sr.optim.Adam(parameters := make((3,), (2,)))
    optimizer.state[parameters[0]] = {"exp_avg": torch.zeros(3, dtype=torch.float16), "theirs": "kept"}
    optimizer.state["ema"] = 3  # type: ignore[index]
    return optimizer


@rule
def counting(theta, g, k=slot(rank="tensor"), *, lr=0.1):
    return theta - lr * g / (1 + k), k + sr.norm(g)


@transform
def centred(theta, g):
    return g - sr.mean(g)


OPTIMISERS: dict[str, Callable[[], Any]] = {
    "plain": lambda: sr.optim.Adam(make()),
    "guarded": lambda: sr.optim.Adam(make(), nonfinite="skip"),
    "guarded, raising": lambda: board.adam.optimizer(make(), nonfinite="raise"),
    "guarded and clipped": lambda: sr.optim.AdamW(make(), clip=1.0, nonfinite="skip"),
    "float64": lambda: board.rmsprop.optimizer(make(dtype=torch.float64), clip=0.5),
    "compensated": lambda: sr.optim.AdamW(make(dtype=torch.bfloat16), compensated=True, clip=1.0),
    "compensated in float16": lambda: sr.optim.SGD(make(dtype=torch.float16), momentum=0.9, compensated=True),
    "forced eager": lambda: sr.optim.NAdam(make(), backend="eager", nonfinite="raise"),
    "two dtypes in one group": lambda: sr.optim.Lion([*make(), *make(dtype=torch.bfloat16)], clip=1.0),
    "gaps beside kernels": lambda: sr.optim.RMSprop([*make(), gapped()], centered=True, momentum=0.9),
    "groups of several formulas": lambda: sr.optim.SGD(
        [{"params": make()}, {"params": make((7,)), "momentum": 0.9}, {"params": make((3,)), "momentum": 0.9,
         "nesterov": True, "maximize": True}, {"params": make((2,), dtype=torch.float64), "weight_decay": 0.1}],
        lr=0.1, nonfinite="skip"),
    "groups of one formula": lambda: sr.optim.Adam([{"params": make()}, {"params": make((5,)), "lr": 1.0}]),
    "an empty group": lambda: sr.optim.Adam([{"params": make()}, {"params": []}]),
    "parameters that are frozen": lambda: sr.optim.Adam([*make(), Parameter(torch.ones(2).half(), False)]),
    "two passes of its own": lambda: sr.optim.LAMB(make((4, 4), (2,)), clip=1.0),
    "a number a tensor": lambda: counting.optimizer(make(), clip=centred, nonfinite="skip"),
    "float64 state": loaded_wide,
    "state of somebody else": of_somebody_else,
    "its own start": lambda: sr.optim.Adagrad(make(), initial_accumulator_value=0.1),
    "a look-ahead": lambda: board.nesterov.optimizer(make(), clip=1.0, nonfinite="skip"),
}  # fmt: skip


def step(parameters: list[Any], optimizer: Any, closure: Any = None) -> None:
    for parameter in parameters:
        if parameter.requires_grad:
            parameter.grad = torch.full_like(parameter, 0.5)
    optimizer.step(closure)


def ran(parameter: torch.Tensor) -> Counted:
    """Return the batch that updated a parameter, or what is here of it."""
    return RAN[local(parameter)]


def trainable(optimizer: Any, group: int | None = None) -> list[Parameter]:
    groups = optimizer.param_groups if group is None else [optimizer.param_groups[group]]
    return [parameter for own in groups for parameter in own["params"] if parameter.requires_grad]


def hold(optimizer: Any, told: sr.Explanation) -> None:
    """Compare every group's explanation with the batches that ran."""
    seen = 0
    for one in told.groups:
        dtype = getattr(torch, one.dtype)
        own = [parameter for parameter in trainable(optimizer, one.group) if parameter.dtype == dtype]
        own = [parameter for parameter in own if isinstance(ran(parameter), Kernel) == (one.backend == "numba_cpu")]
        own = [parameter for parameter in own if state_bytes(optimizer, parameter) == one.state_bytes_per_parameter]
        assert len(own) == one.tensors
        assert sum(parameter.numel() for parameter in own) == one.parameters
        for parameter in own:
            batch = ran(parameter)
            assert batch.swept == [item["index"] for item in one.passes]
            moved = [batch.bytes(index, local(parameter)) for index in batch.swept]
            assert moved == [item["bytes_per_parameter"] for item in one.passes]
            assert sum(moved) == one.bytes_per_parameter
            assert one.source == (batch.source if isinstance(batch, Kernel) else "")
            assert one.backend == ("numba_cpu" if isinstance(batch, Kernel) else "eager")
        seen += len(own)
    assert seen == len(trainable(optimizer))


def state_bytes(optimizer: Any, parameter: torch.Tensor) -> int:
    names = [item.name for item in ran(parameter).plan.graph.element_slots]
    names += ["remainder"] * ("remainder" in optimizer.state[parameter])
    return sum(optimizer.state[parameter][name].element_size() for name in names)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_what_is_told_is_what_runs(name: str) -> None:
    """Passes, bytes, state, backend and source of every group: before the first step, and after it the same."""
    optimizer = OPTIMISERS[name]()
    before = sr.explain(optimizer)
    held = {key: set(state) for key, state in optimizer.state.items() if isinstance(state, dict)}
    assert held.keys() == {key for key, state in optimizer.state.items() if isinstance(state, dict)}  # nothing is made
    step(trainable(optimizer), optimizer)
    hold(optimizer, before)
    assert sr.explain(optimizer) == before
    optimizer.zero_grad()
    assert sr.explain(optimizer) == before
    assert {one.group for one in before.groups} == set(range(len(optimizer.param_groups)))


def test_the_objects_that_run_are_asked() -> None:
    optimizer = OPTIMISERS["groups of several formulas"]()
    told = [compiled for _, running in optimizer._running() for _, compiled in running]
    step(trainable(optimizer), optimizer)
    ran = [own.compiled for own in optimizer._binding.buckets]
    assert {id(compiled) for compiled in told} == {id(compiled) for compiled in ran}


def test_a_guard_costs_a_pass_that_is_told() -> None:
    plain, guarded = (sr.explain(OPTIMISERS[name]()) for name in ("plain", "guarded"))
    assert (len(plain.passes), plain.bytes_per_parameter) == (1, 28)
    assert (len(guarded.passes), guarded.bytes_per_parameter) == (2, 32)
    optimizer = OPTIMISERS["plain"]()
    optimizer.nonfinite = "skip"
    assert sr.explain(optimizer).bytes_per_parameter == 32
    assert "2 passes, 32 bytes a parameter in float32; state: 8" in str(sr.explain(optimizer))


def test_a_slot_whose_type_sends_it_to_eager_is_told_with_the_reason() -> None:
    told = sr.explain(loaded_wide())
    assert (told.backend, told.source) == ("eager", "")
    assert told.reason == "`exp_avg` is float64 beside parameters of float32"
    assert (told.bytes_per_parameter, told.state_bytes_per_parameter) == (16 + 4 * 8, 16)
    mixed = sr.explain(of_somebody_else())
    assert [(one.backend, one.tensors) for one in mixed.groups] == [("numba_cpu", 1), ("numba_cpu", 1)]
    assert mixed.groups[0].storage == "float32; `exp_avg` in float16, rounded to the nearest"
    beside = sr.explain(sr.optim.Adam([*make(), gapped()]))
    assert [one.backend for one in beside.groups] == ["numba_cpu", "eager"]
    assert beside.backend == "eager"  # what is slow is not hidden by what is not


def test_compensation_is_told_at_the_size_that_it_has() -> None:
    optimizer = OPTIMISERS["compensated"]()
    before = sr.explain(optimizer)
    step(trainable(optimizer), optimizer)
    slots = [value for key, value in optimizer.state[trainable(optimizer)[0]].items() if key != "step"]
    assert before.state_bytes_per_parameter == sum(value.element_size() for value in slots)
    assert before.formula == sr.explain(optimizer.program).formula
    told = "bfloat16 and 16 more bits in `remainder`, together float32"
    assert before.storage == f"{told}; `exp_avg`, `exp_avg_sq` in bfloat16, rounded to the nearest"
    assert before.storage in str(before)


def test_every_group_is_printed_and_told_as_plain_data() -> None:
    told = sr.explain(OPTIMISERS["groups of several formulas"]())
    text, data = str(told), told.as_json()
    assert json.loads(json.dumps(data)) == data
    assert set(data) == {*KEYS, "groups", "checks", "threads", "comparisons", "reasons"}
    assert [(set(one), one["group"]) for one in data["groups"]] == [(set(GROUP_KEYS), index) for index in range(4)]
    assert len({one["formula"] for one in data["groups"]}) == 4
    for one in told.groups:
        assert all("    " + line in text for line in one.formula.splitlines())
    assert "sgd, group 0: 2 tensors, 10 numbers, float32 on cpu" in text
    assert "coupled_weight_decay+sgd, group 3: 1 tensor, 2 numbers, float64 on cpu" in text


def test_groups_that_run_alike_are_printed_once() -> None:
    text = str(sr.explain(OPTIMISERS["groups of one formula"]()))
    assert text.startswith("adam, groups 0, 1: 3 tensors, 15 numbers, float32 on cpu\n")
    assert text.count("θₜ =") == 1
    assert str(sr.explain(OPTIMISERS["plain"]())).startswith("adam\n\n")


def test_a_group_that_nothing_updates_is_told_as_such() -> None:
    told = sr.explain(OPTIMISERS["an empty group"]())
    assert [(one.backend, one.tensors) for one in told.groups] == [("numba_cpu", 2), ("none", 0)]
    assert "no parameter of this group can have a gradient" in str(told)
    assert told.backend == "numba_cpu"
    frozen = sr.explain(sr.optim.Adam([Parameter(torch.ones(2), requires_grad=False)]))
    assert (frozen.backend, frozen.bytes_per_parameter) == ("none", 28)


def test_a_flag_that_changes_is_followed() -> None:
    optimizer = OPTIMISERS["plain"]()
    step(trainable(optimizer), optimizer)
    optimizer.param_groups[0]["amsgrad"] = True
    told = sr.explain(optimizer)
    assert "max_exp_avg_sq" in told.formula
    step(trainable(optimizer), optimizer)
    hold(optimizer, told)


def test_a_look_ahead_is_told_as_it_was_stepped() -> None:
    optimizer = OPTIMISERS["a look-ahead"]()
    parameters = trainable(optimizer)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = sum((parameter * parameter).sum() for parameter in parameters)
        loss.backward()
        return loss

    free = sr.explain(optimizer)
    optimizer.step(closure)
    exact = sr.explain(optimizer)
    hold(optimizer, exact)
    assert exact.source != free.source
    assert exact.formula == free.formula


def test_explaining_takes_no_memory_and_changes_nothing() -> None:
    optimizer = sr.optim.Adam([parameter := Parameter(torch.ones(3))])
    sr.explain(optimizer)
    assert not optimizer.state
    step([parameter], optimizer)
    held = dict(optimizer.state[parameter])
    binding = optimizer._binding
    sr.explain(optimizer)
    assert optimizer._binding is binding
    assert all(optimizer.state[parameter][key] is value for key, value in held.items())
    assert optimizer.state[parameter].keys() == held.keys()


def test_a_backend_that_cannot_is_refused_as_the_step_would() -> None:
    optimizer = sr.optim.Adam([gapped()], backend="numba_cpu")
    with pytest.raises(sr.errors.BackendError) as told:
        sr.explain(optimizer)
    with pytest.raises(sr.errors.BackendError, match="numba_cpu") as stepped:
        step(trainable(optimizer), optimizer)
    assert str(told.value) == str(stepped.value)


def test_a_sharded_parameter_is_told_as_it_runs() -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    distributed = torch.distributed
    distributed.init_process_group("gloo", rank=0, world_size=1, store=distributed.HashStore())
    try:
        mesh = distributed.init_device_mesh("cpu", (1,))
        sharded = Parameter(distribute_tensor(torch.ones(4, 3), mesh, [Shard(0)]))
        optimizer = sr.optim.Adam([{"params": [sharded]}, {"params": make()}])
        told = sr.explain(optimizer)
        step(trainable(optimizer), optimizer)
        hold(optimizer, told)
        assert sr.explain(optimizer) == told
        assert [(one.backend, one.tensors, one.parameters) for one in told.groups] == [
            ("numba_cpu", 1, 12), ("numba_cpu", 2, 10)]  # fmt: skip
        assert "DTensor" in told.reason
    finally:
        distributed.destroy_process_group()


ODD: dict[str, Callable[[], torch.Tensor]] = {
    "torch.sparse_coo": lambda: torch.eye(3).to_sparse(),
    "torch.sparse_csr": lambda: torch.eye(3).to_sparse_csr(),
    "a nested tensor": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "on the meta device": lambda: torch.empty(3, device="meta"),
    "torch.complex64": lambda: torch.ones(3, dtype=torch.complex64),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", ODD)
def test_what_a_step_refuses_is_told_beside_what_it_updates(what: str) -> None:
    odd = Parameter(ODD[what]())
    told = sr.explain(optimizer := sr.optim.Adam([*make(), odd]))
    assert [(one.backend, one.tensors) for one in told.groups] == [("numba_cpu", 2), ("none", 1)]
    assert told.reason == str(told.groups[1]).splitlines()[-1].removeprefix("backend: none (").removesuffix(")")
    assert what in told.reason
    assert "a step refuses it" in told.reason
    assert not optimizer.state


def test_a_parameter_that_has_no_shape_yet_is_told() -> None:
    told = sr.explain(sr.optim.Adam(torch.nn.LazyLinear(2).parameters()))
    assert [(one.backend, one.parameters) for one in told.groups] == [("none", 0)]
    assert "has no shape yet" in str(told)
