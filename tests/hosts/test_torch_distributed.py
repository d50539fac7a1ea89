"""torch.distributed: checkpoints by name, and training in two processes, as with torch's own optimisers."""

from __future__ import annotations

import os
import sys
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)
from torch_loop import CLASSES, deviation, held, identical, network, train
from torch_ranks import MAKERS as SHARDED
from torch_ranks import NORMS, PAIRS, REFUSED, SCENARIOS, WORLD, process

import steprule as sr
from steprule import board

pytestmark = [pytest.mark.cpu, pytest.mark.host("torch.distributed")]

TORCHS_OWN = ("TypedStorage is deprecated:UserWarning", "torch.distributed is (disabled|unavailable):UserWarning")
pytestmark += [pytest.mark.filterwarnings(f"ignore:{message}") for message in TORCHS_OWN]

# Checkpoints -------------------------------------------------------------------------------------------------

MAKERS: dict[str, Any] = {
    **{name: getattr(sr.optim, name) for name in CLASSES},
    # SGD with momentum: without, it has no state, and torch loads none. These have the kernels of the scenarios below.
    **{
        name: lambda params, make=make, options=options: make(params, **options)
        for name, (make, _, options) in PAIRS.items()
    },
    "board.adam": board.adam.optimizer,
    "board.nesterov": board.nesterov.optimizer,
    "clipped": lambda params: sr.optim.AdamW(params, clip=0.05, nonfinite="skip"),
}
OPTIONS = {
    "as it is": StateDictOptions(),
    "flattened": StateDictOptions(flatten_optimizer_state_dict=True, cpu_offload=True),
    "full": StateDictOptions(full_state_dict=True, cpu_offload=True),
}


def made(name: str) -> tuple[torch.nn.Module, Any]:
    model = network()
    return model, MAKERS[name](model.parameters())


@pytest.mark.parametrize("name", MAKERS)
def test_asking_a_fresh_optimiser_for_its_state_moves_nothing_and_makes_no_nan(name: str) -> None:
    """torch makes the state by a step with zero gradients at rate zero, and puts the rate back."""
    model, optimizer = made(name)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    saved = get_optimizer_state_dict(model, optimizer)
    assert set(saved["state"]) == {name for name, _ in model.named_parameters()}
    assert identical([parameter.detach() for parameter in model.parameters()], before)
    assert all(torch.isfinite(value).all() for value in held(optimizer))
    assert [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups] == groups


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", MAKERS)
def test_a_run_resumes_bit_for_bit_from_state_by_name(name: str, options: str) -> None:
    (model, optimizer), (again, other) = made(name), made(name)
    train(model, optimizer, range(3))
    weights = deepcopy(get_model_state_dict(model))
    state = deepcopy(get_optimizer_state_dict(model, optimizer, options=OPTIONS[options]))
    train(model, optimizer, range(3, 6))
    other.zero_grad()
    set_model_state_dict(again, weights)
    set_optimizer_state_dict(again, other, state, options=OPTIONS[options])
    train(again, other, range(3, 6))
    assert identical(held(other), held(optimizer))


@pytest.mark.parametrize("name", ["AdamW", "SGD", "a rule", "board.nesterov"])
def test_a_run_resumes_bit_for_bit_from_a_directory(name: str, tmp_path: Path) -> None:
    (model, optimizer), (again, other) = made(name), made(name)
    train(model, optimizer, range(3))
    weights, state = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": state}, checkpoint_id=str(tmp_path), no_dist=True)
    train(model, optimizer, range(3, 6))
    weights, state = get_state_dict(again, other)
    target = {"model": weights, "optimizer": state}
    dcp.load(target, checkpoint_id=str(tmp_path), no_dist=True)
    set_state_dict(again, other, model_state_dict=target["model"], optim_state_dict=target["optimizer"])
    train(again, other, range(3, 6))
    assert identical(held(other), held(optimizer))


@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_state_by_name_moves_between_torchs_class_and_ours(name: str) -> None:
    for first, second in ((sr.optim, torch.optim), (torch.optim, sr.optim)):
        models = [network(), network()]
        optimizers = [
            getattr(place, name)(model.parameters(), lr=0.05, **({"momentum": 0.9} if name == "SGD" else {}))
            for place, model in zip((first, second), models, strict=True)
        ]
        train(models[0], optimizers[0], range(3))
        set_model_state_dict(models[1], deepcopy(get_model_state_dict(models[0])))
        set_optimizer_state_dict(models[1], optimizers[1], deepcopy(get_optimizer_state_dict(models[0], optimizers[0])))
        for model, optimizer in zip(models, optimizers, strict=True):
            train(model, optimizer, range(3, 6))
        assert deviation(models[0].parameters(), models[1].parameters()) <= 1e-12


@pytest.mark.skipif(not hasattr(torch.optim, "swap_in_optimizer_params_and_state"), reason="this torch has no swap")
@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_other_tensors_may_be_swapped_in_for_some_steps(name: str) -> None:
    """The step counts are left out here: see the next test."""
    ends = []
    for place in (sr.optim, torch.optim):
        model = network()
        optimizer = getattr(place, name)(model.parameters(), lr=0.05, **({"momentum": 0.9} if name == "SGD" else {}))
        train(model, optimizer, range(3))
        state, before = deepcopy(optimizer.state_dict()), held(optimizer)
        tensors = {key: value.detach().clone() for key, value in model.named_parameters()}
        with torch.optim.swap_in_optimizer_params_and_state(optimizer, tensors, state):
            for value in tensors.values():
                value.grad = torch.full_like(value, 0.1)
            optimizer.step()
            optimizer.step()
        assert identical(held(optimizer), before)
        moments = [v for own in state["state"].values() for key, v in sorted(own.items()) if key != "step"]
        train(model, optimizer, range(3, 6))
        ends.append([*tensors.values(), *moments, *model.parameters()])
    assert deviation(*ends) <= 1e-12


@pytest.mark.skipif(not hasattr(torch.optim, "swap_in_optimizer_params_and_state"), reason="this torch has no swap")
def test_steps_with_swapped_in_state_are_counted_in_it() -> None:
    model, optimizer = made("AdamW")
    train(model, optimizer, range(3))
    state = deepcopy(optimizer.state_dict())
    tensors = {key: value.detach().clone() for key, value in model.named_parameters()}
    with torch.optim.swap_in_optimizer_params_and_state(optimizer, tensors, state):
        for value in tensors.values():
            value.grad = torch.ones_like(value)
        optimizer.step()
    assert [float(own["step"]) for own in state["state"].values()] == [4.0] * 4


# Two processes -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, kernel_cache: None) -> dict[str, list[Any]]:
    """Run every scenario in two processes that are started once, and return what each process found."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "ranks"
    try:
        folder.mkdir()
    except FileExistsError:
        _wait_for(folder / "done")  # another worker of this run is at it
    else:
        _run(folder)
    return {
        name: [torch.load(folder / f"{index}.{rank}", weights_only=False) for rank in range(WORLD)]
        for index, name in enumerate(SCENARIOS)
    }


def _run(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if sys.platform == "linux" and "GLOO_SOCKET_IFNAME" not in os.environ:
            patch.setenv("GLOO_SOCKET_IFNAME", "lo")  # a machine's own name need not resolve
        try:
            mp.spawn(process, (str(folder), list(SCENARIOS)), nprocs=WORLD)
        finally:
            (folder / "done").touch()


def _wait_for(file: Path, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.1)


def found(both: dict[str, list[Any]], name: str) -> list[dict[str, Any]]:
    for outcome in both[name]:
        if isinstance(outcome, str):
            pytest.fail(outcome)
    return both[name]


@pytest.mark.parametrize("name", [*(f"DDP {pair}" for pair in PAIRS), "DDP with bucket views", "DDP with clipping"])
def test_data_parallel_training_equals_one_process_and_torch_and_resumes(name: str, both: Any) -> None:
    first, second = found(both, name)
    assert identical(first["own"], second["own"])
    for side in (first, second):
        assert deviation(side["own"], side["twin"]) <= 1e-12
        assert deviation(side["own"], side["alone"]) <= 1e-12
        assert identical(side["resumed"], side["own"])


@pytest.mark.parametrize("name", [*(f"ZeRO {pair}" for pair in PAIRS), "ZeRO with bucket views"])
def test_state_divided_among_processes_gives_the_numbers_of_torch_and_resumes_together_or_alone(
    name: str, both: Any
) -> None:
    """ZeroRedundancyOptimizer, and what consolidate_state_dict gathered, also in an optimiser that holds it all."""
    first, second = found(both, name)
    assert identical(first["own"], second["own"])
    for side in (first, second):
        assert deviation(side["own"], side["twin"]) <= 1e-12
        assert identical(side["resumed"], side["own"])
        assert identical(side["resumed alone"], side["own"])


@pytest.mark.parametrize("name", [*(f"FSDP2 {pair}" for pair in PAIRS), "FSDP2 with clipping", "FSDP2 clipping"])
def test_sharded_parameters_are_stepped_as_torch_steps_them_and_resume(name: str, both: Any) -> None:
    """fully_shard: parameters and state are DTensors, some without a row here; from a directory, and unsharded."""
    first, second = found(both, name)
    assert (first["rows"], second["rows"]) == ([4, 4, 1, 1], [4, 4, 0, 0])
    assert "DTensor" in first["state"]
    for side in (first, second):
        assert deviation(side["own"], side["twin"]) <= 1e-12
        assert side["same bits"]
        assert side["same binding"]
        assert side["backend"] == "numba_cpu"
        for other in filter(None, (side["torch's by ours"], side["ours by torch's"])):
            assert deviation(other, side["twin"]) <= 1e-12
    assert deviation(first["alone"], first["own"]) <= 1e-12


@pytest.mark.parametrize("name", SHARDED)
def test_dtensors_become_bit_for_bit_what_whole_tensors_become(name: str, both: Any) -> None:
    """Uneven and empty parts, replicas, meshes of two dimensions, gradients that are absent or sums over processes."""
    for side in found(both, f"DTensors {name}"):
        assert side.pop("same") == [True] * 6
        assert side == {"bindings after half": 1, "same state": True, "placed alike": True, "backend": "numba_cpu"}


@pytest.mark.parametrize("name", [*(f"norms of {name}" for name in NORMS), "norms in torch operations"])
def test_norms_of_parts_are_those_of_whole_tensors(name: str, both: Any) -> None:
    """Uneven and empty parts, replicas, which count once, meshes of two dimensions, absent gradients, plain tensors."""
    for side in found(both, name):
        assert side["deviation"] <= 1e-14
        assert side["backend"] == ("eager" if "operations" in name else "numba_cpu")
        assert ("sends what that reduces to" in side["reason"]) == (side["backend"] == "numba_cpu")
        for own, alone in (pair for told in side["gauges"] for pair in zip(*told, strict=True)):
            assert own == pytest.approx(alone, rel=1e-6)


def test_a_gradient_that_is_not_finite_in_one_process_stops_all_and_one_message_a_pass_is_all_that_is_sent(
    both: Any,
) -> None:
    first, second = found(both, "guards")
    assert "a part of a gradient that another process has" in first.pop("told")
    assert "the gradient of `0.weight`" in second.pop("told")
    assert (first.pop("where one has nothing"), second.pop("where one has nothing")) == ((1, True), (1, False))
    expected = {"same after skip": (1, True), "same after raise": (1, True), "sent": 1, "sent without norms": 0}
    assert first == second == expected | {"sent when asked to clip later": 1}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_parts_cannot_do_is_refused_in_every_process(kind: str, both: Any) -> None:
    for side in found(both, f"FSDP2 refuses {kind}"):
        assert "DTensor" in side["told"]


def test_a_look_ahead_works_on_sharded_parameters(both: Any) -> None:
    for side in found(both, "FSDP2 with a look-ahead"):
        assert deviation(side["own"], side["alone"]) <= 1e-12


@pytest.mark.parametrize("name", ["FSDP2 with two gradients", "FSDP2 with a length of each", "DDP with two gradients"])
def test_two_gradients_of_several_processes_are_those_of_one(name: str, both: Any) -> None:
    """The points, too, which every process must find at the same place: the last layer has no part in the second."""
    first, second = found(both, name)
    for side in (first, second):
        assert deviation(side["points"], side["its"]) <= 1e-12
        assert deviation(side["own"], side["alone"]) <= 1e-12
    assert deviation(first["points"], second["points"]) == 0


@pytest.mark.parametrize("name", ["gauges", "gauges of 16 bits"])
def test_gauges_of_parts_are_those_of_whole_tensors_and_send_only_when_they_are_read(name: str, both: Any) -> None:
    """Uneven and empty parts, replicas, which count once, meshes of two dimensions, absent gradients, NaN in a part."""
    first, second = found(both, name)
    assert first["found"] == pytest.approx(second["found"], rel=0, nan_ok=True)
    for side in (first, second):
        assert side["found"] == pytest.approx(side["alone"], rel=1e-6, nan_ok=True)
        assert list(side["each"]) == list(side["alone each"])
        for own, alone in zip(side["each"].values(), side["alone each"].values(), strict=True):
            assert own == pytest.approx(alone, rel=1e-6, abs=1e-12, nan_ok=True)
        assert side["sent in steps"] == []
        assert 1 <= side["sent"] <= 4  # one for all that the same processes share
        assert side["lacking"] == {}
    whole = first["found"]
    assert whole["update_ratio"] > 0 if name == "gauges" else (whole["nonfinite"] == 1 and whole["stalled"] > 0.1)


@pytest.mark.parametrize("pair", PAIRS)
def test_sharded_parameters_are_stepped_in_the_backward_pass_once_their_gradients_are_reduced(
    pair: str, both: Any
) -> None:
    for side in found(both, f"FSDP2 {pair} in backward"):
        assert side == {"same bits": True, "freed": [False] * 6 + [True] * 6}


@pytest.mark.parametrize("name", ["DDP in backward", "DDP in backward, later"])
def test_data_parallel_training_is_refused_in_the_backward_pass_before_anything_is_written(
    name: str, both: Any
) -> None:
    for side in found(both, name):
        assert "DistributedDataParallel" in side["told"]
        assert "fully_shard" in side["told"].partition("help: ")[2]
        assert side["untouched"]
