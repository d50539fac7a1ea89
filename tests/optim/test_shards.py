"""DTensors: each process updates its own part by a kernel, bit for bit; what needs the others is refused at once.

One process plays the first of four: the group of processes is torch's fake one, which sends nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

import steprule as sr
from steprule import board
from steprule.backends.numba_cpu import CpuBatch
from steprule.errors import ParameterError, StateError
from steprule.optim import binding, fast_check
from steprule.optim.roles import roles

pytestmark = [pytest.mark.cpu, pytest.mark.filterwarnings("ignore:torch.distributed:UserWarning")]


@pytest.fixture(autouse=True)
def four_processes() -> Generator[None]:
    dist.init_process_group("fake", rank=0, world_size=4, store=FakeStore())
    yield
    dist.destroy_process_group()


@pytest.fixture(params=["fast", "slow"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "slow":
        monkeypatch.setattr(binding, "loop", lambda: None)
    elif fast_check.loop() is None:
        pytest.skip("this Python or this torch is made differently")
    return request.param


def line() -> DeviceMesh:
    return init_device_mesh("cpu", (4,))


def shared(part: torch.Tensor, shape: Sequence[int], placements: Sequence[Any], mesh: DeviceMesh) -> Any:
    """Make a DTensor of which this process has this part."""
    strides = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(part, mesh, placements, shape=torch.Size(shape), stride=strides)


def parameter(size: Sequence[int], shape: Sequence[int], placements: Sequence[Any], mesh: DeviceMesh) -> Any:
    return torch.nn.Parameter(shared(torch.randn(size), shape, placements, mesh))


def assorted() -> list[Any]:
    """Make parameters of every kind of placement, one of which has no element here, and one that is no DTensor."""
    from torch.distributed.tensor.placement_types import _StridedShard

    one, two = line(), init_device_mesh("cpu", (2, 2), mesh_dim_names=("a", "b"))
    return [
        parameter((2, 3), (7, 3), [Shard(0)], one),
        parameter((0, 3), (1, 3), [Shard(0)], one),
        parameter((5, 2), (5, 6), [Shard(1)], one),
        parameter((5,), (5,), [Replicate()], one),
        parameter((4, 3), (7, 3), [Replicate(), Shard(0)], two),
        parameter((4, 2), (7, 3), [Shard(0), Shard(1)], two),
        parameter((2, 3), (8, 3), [_StridedShard(0, split_factor=2), Shard(0)], two),
        torch.nn.Parameter(torch.randn(3, 3)),
    ]


def part(tensor: Any) -> torch.Tensor:
    return tensor.detach()._local_tensor if isinstance(tensor, DTensor) else tensor.detach()


def as_parameter(own: Any, value: torch.Tensor) -> torch.Tensor:
    """Return a gradient: a new DTensor, with a description of its own, equal to the parameter's."""
    if not isinstance(own, DTensor):
        return value
    return shared(value, own.shape, tuple(own.placements), own.device_mesh)


def fill(parameters: list[Any], step: int) -> list[torch.Tensor]:
    """Give every parameter a gradient; return the parts."""
    generator = torch.Generator().manual_seed(step)
    parts = [torch.randn(part(p).shape, generator=generator) for p in parameters]
    for own, value in zip(parameters, parts, strict=True):
        own.grad = as_parameter(own, value.clone())
    return parts


Make = Callable[[Any], Any]


def adamw(parameters: Any) -> Any:
    return sr.optim.AdamW(parameters, lr=0.1)


def backends(optimizer: Any) -> set[type]:
    return {type(bucket.batch) for bucket in optimizer._binding.buckets}


def test_parts_become_bit_for_bit_what_plain_tensors_become_in_kernels_without_a_new_binding(way: str) -> None:
    parameters = assorted()
    twins = [torch.nn.Parameter(part(p).clone()) for p in parameters]
    optimizer, other = adamw(parameters), adamw(twins)
    bindings = set()
    for step in range(4):
        for twin, value in zip(twins, fill(parameters, step), strict=True):
            twin.grad = value
        for own in (optimizer, other):
            own.param_groups[0]["lr"] = 0.1 / (step + 1)
            own.step()
        bindings.add(optimizer._binding)
        assert (optimizer._binding._fast is not None) == (way == "fast")
    assert len(bindings) == 1
    assert backends(optimizer) == {CpuBatch}
    assert sr.explain(optimizer).backend == "numba_cpu"
    for own, twin in zip(parameters, twins, strict=True):
        assert torch.equal(part(own), twin)
        for name, value in optimizer.state[own].items():
            assert isinstance(value, DTensor) == (isinstance(own, DTensor) and value.dim() > 0)
            assert torch.equal(part(value), other.state[twin][name])


def test_explain_says_that_parts_are_updated_by_a_kernel_and_why_others_are_not() -> None:
    mesh = line()
    own = parameter((2, 3), (8, 3), [Shard(0)], mesh)
    told = sr.explain(adamw([own]))
    assert (told.backend, "its part of a DTensor" in told.reason) == ("numba_cpu", True)
    for placement, reason in ((Shard(0), "its part of a DTensor"), (Shard(1), "row by row in the whole tensor")):
        half = torch.nn.Parameter(shared(torch.randn(8, 3).bfloat16(), (8, 12), [placement], mesh) if placement.dim else
                                  shared(torch.randn(2, 12).bfloat16(), (8, 12), [placement], mesh))  # fmt: skip
        told = sr.explain(sr.optim.AdamW([half], rounding="stochastic"))
        assert reason in told.reason


# What changes is followed --------------------------------------------------------------------------------------

CHANGES: dict[str, Callable[[Any, Any], None]] = {}


def change(does: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    CHANGES[does.__name__] = does
    return does


@change
def the_parameter_has_another_part(own: Any, optimizer: Any) -> None:
    own._local_tensor = own._local_tensor.clone()  # as FSDP2 does after a module has been moved or loaded


@change
def the_part_has_other_memory(own: Any, optimizer: Any) -> None:
    own._local_tensor.data = own._local_tensor.clone()


@change
def a_slot_is_another_dtensor(own: Any, optimizer: Any) -> None:
    optimizer.state[own]["exp_avg"] = optimizer.state[own]["exp_avg"].clone()


@change
def a_slot_has_another_part(own: Any, optimizer: Any) -> None:
    optimizer.state[own]["exp_avg"]._local_tensor = optimizer.state[own]["exp_avg"]._local_tensor.clone()


@change
def a_slot_is_whole_everywhere(own: Any, optimizer: Any) -> None:
    value = optimizer.state[own]["exp_avg"]
    whole = torch.zeros(own.shape)
    whole[: len(part(value))] = part(value)
    optimizer.state[own]["exp_avg"] = shared(whole, own.shape, [Replicate()], own.device_mesh)


@change
def the_gradient_is_whole_everywhere(own: Any, optimizer: Any) -> None:
    whole = torch.full(own.shape, 7.0)
    whole[: len(part(own.grad))] = part(own.grad)
    own.grad = shared(whole, own.shape, [Replicate()], own.device_mesh)


@change
def the_gradient_is_laid_out_otherwise(own: Any, optimizer: Any) -> None:
    own.grad = as_parameter(own, part(own.grad).t().contiguous().t())


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_about_a_dtensor_is_followed(name: str, way: str) -> None:
    own = parameter((2, 3), (8, 3), [Shard(0)], line())
    twin = torch.nn.Parameter(part(own).clone())
    optimizer, other = adamw([own]), adamw([twin])
    for step in range(4):
        (twin.grad,) = fill([own], step)
        if step == 2:
            CHANGES[name](own, optimizer)
        optimizer.step()
        other.step()
        assert torch.equal(part(own), twin)
    assert all(torch.equal(part(value), other.state[twin][key]) for key, value in optimizer.state[own].items())


WRONG: dict[str, tuple[Callable[[Any], Any], str]] = {
    "plain": (lambda own: torch.ones(own.shape), "the parameter is a DTensor and the gradient a Tensor"),
    "on another mesh": (
        lambda own: shared(torch.ones(4, 3), own.shape, [Shard(0)], DeviceMesh("cpu", [0, 1])),
        r"the gradient is a DTensor, Shard\(dim=0\) on a mesh of \(2,\)",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("steps", [0, 2])
def test_a_gradient_that_cannot_be_its_parameters_is_refused_before_anything_is_written(kind: str, steps: int) -> None:
    own = parameter((2, 3), (8, 3), [Shard(0)], line())
    optimizer = adamw([("w", own)])
    for step in range(steps):
        fill([own], step)
        optimizer.step()
    before = part(own).clone()
    make, told = WRONG[kind]
    own.grad = make(own)
    with pytest.raises(ParameterError, match=told) as error:
        optimizer.step()
    assert "`w`: shape (8, 3), torch.float32, on cpu, Shard(dim=0) on a mesh of (4,)" in str(error.value)
    assert torch.equal(part(own), before)


def test_absent_gradients_leave_parts_as_they_are() -> None:
    parameters = assorted()
    optimizer = adamw(parameters)
    fill(parameters, 0)
    optimizer.step()
    before = [part(p).clone() for p in parameters]
    fill(parameters, 1)
    for own in parameters[::2]:
        own.grad = None
    optimizer.step()
    same = [torch.equal(part(p), value) for p, value in zip(parameters, before, strict=True)]
    assert same == [True, True, True, False, True, False, True, False]  # the second has no element here


# What a part cannot do -----------------------------------------------------------------------------------------


@sr.rule
def straight(theta: Any, g: Any, *, lr: Any = 0.1) -> Any:
    """Make a matrix of the gradient whose singular values are 1."""
    return theta - lr * sr.orthogonalize(g)


@sr.rule
def watching(theta: Any, g: Any, *, lr: Any = 0.1) -> Any:
    """Descend, and watch the length of all gradients together."""
    sr.watch("length", sr.global_norm(g))
    return theta - lr * g


REFUSED: dict[str, tuple[Make, str, str]] = {
    "watch": (watching.optimizer, "a gauge needs ‖g‖ of all tensors", 'sr.watch("length", sr.norm(g))'),
    "rows": (lambda params: sr.optim.Adafactor(params), "rows and columns", "redistribute(placements=[Replicate()])"),
    "matrices": (straight.optimizer, "needs orthogonalize(", "redistribute(placements=[Replicate()])"),
}


@pytest.mark.null
@pytest.mark.parametrize("kind", REFUSED)
def test_what_needs_the_other_parts_is_refused_when_the_optimiser_is_made_or_given_a_group(kind: str) -> None:
    make, told, fix = REFUSED[kind]
    own, plain = parameter((2, 3), (8, 3), [Shard(0)], line()), torch.nn.Parameter(torch.randn(3))
    for params in ([("plain", plain), ("w", own)], [{"params": [("plain", plain)]}, {"params": [("w", own)]}]):
        with pytest.raises(ParameterError, match="is a DTensor, of which this process has a part") as error:
            make(params)
        what, where, *help_ = str(error.value).splitlines()
        assert told in what
        assert where.startswith("  `w`: shape (8, 3)")
        assert help_[0].startswith("help: ")
        assert fix in help_[0]
    optimizer = make([plain])
    with pytest.raises(ParameterError, match="is a DTensor"):
        optimizer.add_param_group({"params": [own]})
    assert len(optimizer.param_groups) == 1


def test_reductions_over_dtensors_that_are_whole_here_are_right() -> None:
    """A replica, and a shard of a mesh with one process."""
    parameters = [
        parameter((5,), (5,), [Replicate()], line()),
        parameter((3, 2), (3, 2), [Shard(0)], DeviceMesh("cpu", [0])),
    ]
    twins = [torch.nn.Parameter(part(p).clone()) for p in parameters]
    optimizer, other = (sr.optim.LAMB(params, clip=0.1, nonfinite="raise") for params in (parameters, twins))
    for step in range(2):
        for twin, value in zip(twins, fill(parameters, step), strict=True):
            twin.grad = value
        optimizer.step()
        other.step()
        assert all(torch.equal(part(p), twin) for p, twin in zip(parameters, twins, strict=True))
    part(parameters[0].grad)[0] = torch.nan
    with pytest.raises(sr.errors.NonFiniteError, match="parameter 0 of group 0"):
        optimizer.step()


def test_a_parameter_that_is_a_sum_over_processes_is_refused() -> None:
    with pytest.raises(ParameterError, match="holds a term of a sum"):
        sr.optim.SGD([parameter((3,), (3,), [Partial()], line())])


@sr.rule
def remembering(theta: Any, g: Any, length: Any = sr.slot(rank="tensor"), *, lr: Any = 0.1) -> Any:
    """Divide by the length of all gradients of the step before."""
    return theta - lr * g / (1 + length), sr.global_norm(g)


def test_an_interrupt_after_lengths_were_joined_sends_nothing_again_and_replicas_count_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Processes with the same parts; one is interrupted when a slot is to remember the length of all gradients."""
    sent: list[int] = []

    def gather(everyones: list[torch.Tensor], mine: torch.Tensor, group: Any) -> None:
        sent.append(group.size())
        for own in everyones:
            own.copy_(mine)

    monkeypatch.setattr(dist, "all_gather", gather)
    grid = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicas", "shards"))
    sizes = [((2, 3), (8, 3), [Shard(0)], line()), ((2, 3), (4, 3), [Replicate(), Shard(0)], grid)]
    own = [parameter(*size) for size in sizes]
    twins = [torch.nn.Parameter(part(p).repeat(len(p) // 2, 1)) for p in own]
    one, other = remembering.optimizer(own), remembering.optimizer(twins)
    end, interrupts = CpuBatch.end, [1]
    for step in range(3):
        for twin, value in zip(twins, fill(own, step), strict=True):
            twin.grad = value.repeat(len(twin) // 2, 1)
        other.step()
        if step == 1:
            monkeypatch.setattr(CpuBatch, "end", lambda own: end(own) if not interrupts else raise_(interrupts.pop()))
            with pytest.raises(KeyboardInterrupt):
                one.step()
        else:
            one.step()
        assert sent == [4, 2] * (step + 1)
        for p, twin in zip(own, twins, strict=True):
            torch.testing.assert_close(part(p), twin.detach()[:2], rtol=1e-6, atol=0)
            torch.testing.assert_close(one.state[p]["length"], other.state[twin]["length"], rtol=1e-6, atol=0)


def raise_(_: object) -> None:
    raise KeyboardInterrupt


# State ---------------------------------------------------------------------------------------------------------


def test_state_that_is_not_distributed_as_its_parameter_is_refused() -> None:
    own = parameter((2, 3), (8, 3), [Shard(0)], line())
    optimizer = adamw([own])
    fill([own], 0)
    optimizer.step()
    before, saved = part(own).clone(), optimizer.state_dict()
    saved["state"][0] = {**saved["state"][0], "exp_avg": torch.zeros(8, 3)}
    with pytest.raises(StateError, match="'exp_avg' is a whole tensor, but the parameter is a DTensor"):
        optimizer.load_state_dict(saved)
    optimizer.state[own]["exp_avg"] = torch.zeros(8, 3)
    fill([own], 1)
    with pytest.raises(ParameterError, match="state 'exp_avg' is a Tensor, the parameter a DTensor"):
        optimizer.step()
    assert torch.equal(part(own), before)


def test_a_state_of_parts_is_refused_by_a_whole_parameter() -> None:
    own, plain = parameter((2, 3), (8, 3), [Shard(0)], line()), torch.nn.Parameter(torch.randn(8, 3))
    optimizer = adamw([own])
    fill([own], 0)
    optimizer.step()
    with pytest.raises(StateError, match="'exp_avg' is a DTensor, but the parameter is a whole tensor"):
        adamw([plain]).load_state_dict(optimizer.state_dict())


def test_state_of_8_bits_is_a_part_of_that_of_the_whole() -> None:
    """Codes and exponents are DTensors, distributed as the parameter; rows that are cut are refused."""
    torch.manual_seed(0)
    whole, gradient = torch.randn(100, 65), torch.randn(100, 65)
    alone = torch.nn.Parameter(whole.clone())
    part = torch.nn.Parameter(shared(whole[:25].clone(), (100, 65), [Shard(0)], line()))
    for own, g in ((alone, gradient), (part, shared(gradient[:25].clone(), (100, 65), [Shard(0)], line()))):
        own.grad = g
    one, other = (sr.optim.AdamW([own], state="8bit", backend="eager") for own in (alone, part))
    for _ in range(2):
        one.step()
        other.step()
    for name, value in one.state[alone].items():
        held = other.state[part][name]
        if value.ndim:
            assert (tuple(held.shape), held.placements) == (tuple(value.shape), (Shard(0),))
            assert torch.equal(held.to_local(), value[:25])
    assert torch.equal(part.detach().to_local(), alone.detach()[:25])
    again = sr.optim.AdamW([part], state="8bit", backend="eager")
    again.load_state_dict(other.state_dict())
    assert torch.equal(again.state[part]["exp_avg"].to_local(), other.state[part]["exp_avg"].to_local())
    told = other.state_dict(format="float32")["state"][0]["exp_avg"]
    assert (type(told), told.dtype, tuple(told.shape)) == (DTensor, torch.float32, (100, 65))
    cut = parameter((100, 17), (100, 65), [Shard(1)], line())
    cut.grad = shared(torch.zeros(100, 17), (100, 65), [Shard(1)], line())
    with pytest.raises(ParameterError, match="each process holds parts of rows"):
        sr.optim.AdamW([cut], state="8bit").step()
    row = parameter((25,), (100,), [Shard(0)], line())
    row.grad = shared(torch.zeros(25), (100,), [Shard(0)], line())
    with pytest.raises(ParameterError, match=r'help: ask for state="8bit"$'):
        sr.optim.AdamW([row], state="8bit-all").step()
    sr.optim.AdamW([row], state="8bit", backend="eager").step()
    copied = parameter((100,), (100,), [Replicate()], line())
    copied.grad = shared(torch.ones(100), (100,), [Replicate()], line())
    optimizer = sr.optim.AdamW([copied], state="8bit-all", backend="eager")
    optimizer.step()
    held = optimizer.state[copied]["exp_avg_scale"]
    assert (tuple(held.shape), held.placements) == ((1, 4), (Replicate(),))


def test_roles_are_found_in_a_sharded_model_and_a_rule_of_matrices_is_refused_by_its_name() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
    whole = {name: told.role for name, (_, told) in roles(model).items()}
    fully_shard(model, mesh=line())
    optimizer = sr.Optimizer(model, {"hidden": board.momentum, "rest": board.adam}, lr=0.1)
    assert {name: route.role for name, route in optimizer.routes.items()} == whole
    assert all(isinstance(own, DTensor) for group in optimizer.param_groups for own in group["params"])
    with pytest.raises(ParameterError, match=r"`straight` needs orthogonalize\(g.*\) of all of it") as caught:
        sr.Optimizer(model, {"hidden": straight, "rest": board.adam})
    assert "0.weight" in caught.value.where
