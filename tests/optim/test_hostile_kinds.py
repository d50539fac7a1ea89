"""Whatever torch calls a tensor: one that is no plain array of floats in main memory is refused by name, or right."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from truth import Truth, corrected_adam, fill_gradients, make, step_both

import steprule as sr
from child import ended, fork
from steprule import board
from steprule.errors import BackendError, ParameterError
from steprule.optim.tensors import Entry, backend_of, check

pytestmark = pytest.mark.cpu

Pair = tuple[torch.Tensor, torch.Tensor]

FAKE = FakeTensorMode()
ZEROS = torch.zeros(3)


def quantised() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8)


def both(make_one: Callable[[], torch.Tensor]) -> Callable[[], Pair]:
    return lambda: (make_one(), make_one())


KINDS: dict[str, tuple[Callable[[], Pair], str]] = {
    "sparse gradient": (lambda: (torch.zeros(3), torch.eye(3)[0].to_sparse()), "the gradient is torch.sparse_coo"),
    "mkldnn": (both(ZEROS.to_mkldnn), "the parameter is torch._mkldnn"),
    "meta": (both(lambda: torch.zeros(3, device="meta")), "the parameter is on the meta device"),
    "fake": (both(lambda: FAKE.from_tensor(torch.zeros(3))), "the parameter is a FakeTensor"),
    "fake gradient": (lambda: (torch.zeros(3), FAKE.from_tensor(torch.ones(3))), "the gradient is a FakeTensor"),
    "complex": (both(lambda: torch.zeros(3, dtype=torch.complex64)), "the parameter is torch.complex64"),
    "integer": (both(lambda: torch.zeros(3, dtype=torch.int32)), "the parameter is torch.int32"),
    "bool": (both(lambda: torch.zeros(3, dtype=torch.bool)), "the parameter is torch.bool"),
    "quantised": (both(quantised), "the parameter is torch.qint8"),
}


@pytest.mark.hostile("M18")
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_plain_tensor_of_floats_is_refused_by_its_name(kind: str) -> None:
    """The good parameter beside it must not have been stepped either."""
    build, told = KINDS[kind]
    tensor, gradient = build()
    bad = torch.nn.Parameter(tensor, requires_grad=tensor.is_floating_point() or tensor.is_complex())
    good = torch.nn.Parameter(torch.zeros(3))
    bad.grad, good.grad = gradient, torch.ones(3)
    optimizer = board.momentum.optimizer([("layer.good", good), ("layer.bad", bad)])
    for _ in range(2):
        with pytest.raises(ParameterError, match=told) as caught:
            optimizer.step()
        assert "`layer.bad`" in caught.value.where
        assert caught.value.fix
    assert not good.any()
    assert not optimizer.state_dict()["state"]


@pytest.mark.hostile("M18")
@pytest.mark.parametrize("kind", [kind for kind in KINDS if "gradient" in kind])
def test_a_gradient_that_turns_into_another_kind_later_is_refused(kind: str) -> None:
    (parameter,) = make((3,))
    optimizer = board.momentum.optimizer([parameter])
    for _ in range(3):
        fill_gradients([parameter])
        optimizer.step()
    before = parameter.detach().clone()
    parameter.grad = KINDS[kind][0]()[1]
    with pytest.raises(ParameterError, match=KINDS[kind][1]):
        optimizer.step()
    assert torch.equal(parameter, before)


@pytest.mark.hostile("M18")
@pytest.mark.parametrize("transform", [torch.func.vmap, torch.func.grad])
def test_tensors_of_functorch_are_refused(transform: Any) -> None:
    told: list[str] = []

    def step(x: torch.Tensor) -> torch.Tensor:
        parameter = torch.nn.Parameter(torch.zeros(3))
        parameter.grad = x
        for tensor in (parameter, x):
            tensor.grad = x if tensor is parameter else torch.ones(3)
            with pytest.raises(ParameterError) as caught:
                board.sgd.optimizer([tensor]).step()
            told.append(caught.value.what)
        return x.sum()

    transform(step)(torch.ones(2, 3) if transform is torch.func.vmap else torch.ones(3))
    assert len(told) == 2
    assert all("only inside torch.func" in what for what in told)


@pytest.fixture
def mesh(tmp_path: Path) -> Any:
    """Give a mesh of one process."""
    distributed = torch.distributed
    distributed.init_process_group("gloo", rank=0, world_size=1, store=distributed.HashStore())
    yield torch.distributed.init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


@pytest.mark.hostile("M18")
def test_a_dtensor_is_stepped_as_its_shards_and_never_beside_a_whole_gradient(mesh: Any) -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    start, gradients = torch.randn(4, 3), torch.randn(3, 4, 3)
    whole = torch.nn.Parameter(start.clone())
    sharded = torch.nn.Parameter(distribute_tensor(start.clone(), mesh, [Shard(0)]))
    pair = [(whole, corrected_adam.optimizer([whole])), (sharded, corrected_adam.optimizer([sharded]))]
    for gradient in gradients:
        whole.grad, sharded.grad = gradient.clone(), distribute_tensor(gradient.clone(), mesh, [Shard(0)])
        for _, optimizer in pair:
            optimizer.step()
    torch.testing.assert_close(sharded.full_tensor(), whole, rtol=1e-5, atol=1e-6)
    before = sharded.full_tensor()
    for (parameter, optimizer), gradient in zip(pair, (sharded.grad, whole.grad), strict=True):
        parameter.grad = gradient
        with pytest.raises(ParameterError, match="DTensor"):
            optimizer.step()
    assert torch.equal(sharded.full_tensor(), before)


@pytest.mark.hostile("M16")
@pytest.mark.skipif(not hasattr(torch.Tensor, "grad_dtype"), reason="this torch gives gradients no dtype of their own")
@pytest.mark.parametrize("first", [0, 2])
def test_a_gradient_in_another_dtype_counts_as_its_value(first: int) -> None:
    """From the start, or after steps with gradients in the parameter's dtype."""
    (parameter,) = make((5,))
    optimizer = corrected_adam.optimizer([parameter])
    truth = Truth(optimizer)
    for number in range(4):
        parameter.grad = None
        parameter.grad_dtype = torch.bfloat16 if number >= first else None
        parameter.grad = torch.randn(5).to(torch.bfloat16 if number >= first else torch.float32)
        step_both(optimizer, truth)


# Devices -------------------------------------------------------------------------------------------------


class Elsewhere(torch.Tensor):
    """A tensor that says it lives on a GPU; the doors to kernels must believe it."""

    @property
    def device(self) -> torch.device:
        return torch.device("cuda")


@pytest.mark.null
@pytest.mark.hostile("M19")
def test_no_address_of_another_device_reaches_a_kernel_of_the_cpu() -> None:
    here, there = torch.zeros(3), torch.zeros(3).as_subclass(Elsewhere)
    for parameter, gradient in ((here, there), (there, here)):
        with pytest.raises(ParameterError, match="the gradient is on"):
            check(Entry("`w`", 0, parameter, gradient))
    entry = Entry("`w`", 0, there, there)
    check(entry)
    backend, reason = backend_of(entry, [], None)
    assert backend == "eager"
    assert reason.endswith("parameters are on a GPU")  # of which an interpreter of kernels must not read addresses
    with pytest.raises(BackendError, match="cannot update `w`: parameters are on cuda"):
        backend_of(entry, [], "numba_cpu")
    assert backend_of(Entry("`w`", 0, here, here), [there], None)[0] == "eager"


@pytest.mark.gpu
@pytest.mark.hostile("M19")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_devices_side_by_side_in_one_group_are_stepped_where_they_are() -> None:
    program = sr.chain(sr.clip_global_norm(max_norm=0.5), corrected_adam)
    start = [torch.randn(5), torch.randn(3, 2)]
    runs = []
    for devices in (("cpu", "cpu"), ("cpu", "cuda")):
        torch.manual_seed(1)
        parameters = [torch.nn.Parameter(t.clone().to(d)) for t, d in zip(start, devices, strict=True)]
        optimizer = sr.Optimizer(parameters, program)
        for _ in range(3):
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape).to(parameter.device)
            optimizer.step()
        runs.append([parameter.detach().cpu() for parameter in parameters])
    for ours, theirs in zip(*runs, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


# Files ---------------------------------------------------------------------------------------------------


def mapped(path: Path, mode: Any) -> torch.nn.Parameter:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        parameter = torch.nn.Parameter(torch.from_numpy(np.memmap(path, np.float32, mode)))
    parameter.grad = torch.ones(4)
    return parameter


@pytest.mark.hostile("M23")
@pytest.mark.parametrize(("mode", "written"), [("r+", -1.0), ("c", 0.0)])
def test_a_parameter_in_a_file_is_written_where_its_mapping_says(tmp_path: Path, mode: str, written: float) -> None:
    path = tmp_path / "weights"
    np.zeros(4, np.float32).tofile(path)
    parameter = mapped(path, mode)
    board.sgd.optimizer([parameter], lr=1.0).step()
    assert parameter.tolist() == [-1.0] * 4
    assert np.fromfile(path, np.float32).tolist() == [written] * 4


@pytest.mark.hostile("M23")
@pytest.mark.parametrize("make_one", [board.sgd.optimizer, torch.optim.SGD], ids=["ours", "torch"])
def test_writing_to_a_file_mapped_read_only_ends_the_process_as_with_torch(tmp_path: Path, make_one: Any) -> None:
    """No tensor tells that its memory cannot be written; torch warns when it is made, and the file stays as it is."""
    path = tmp_path / "weights"
    np.zeros(4, np.float32).tofile(path)
    optimizer = make_one([mapped(path, "r")], lr=1.0)
    assert ended(fork(optimizer.step)) in {-signal.SIGSEGV, -signal.SIGBUS}
    assert np.fromfile(path, np.float32).tolist() == [0.0] * 4


@pytest.mark.hostile("M23")
def test_weights_mapped_from_a_checkpoint_are_stepped_and_the_checkpoint_is_not(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"w": torch.ones(4)}, path)
    before = path.read_bytes()
    parameter = torch.nn.Parameter(torch.load(path, mmap=True, weights_only=True)["w"])
    parameter.grad = torch.ones(4)
    board.sgd.optimizer([parameter], lr=1.0).step()
    assert not parameter.any()
    assert path.read_bytes() == before
