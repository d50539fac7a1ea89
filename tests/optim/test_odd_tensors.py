"""Every kind of tensor that is no array of real numbers, in every place where an optimiser may meet it.

Whatever torch says of such a tensor, we say what it is, where, and what to do; and nothing has been written.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from truth import bits

import steprule as sr
from steprule import board
from steprule.errors import ParameterError, StateError, StepruleError

pytestmark = pytest.mark.null

SQUARE = torch.ones(4, 4)


def nested(layout: torch.layout) -> torch.Tensor:
    return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=layout)


KINDS: dict[str, tuple[Callable[[], torch.Tensor], str]] = {
    "nested, jagged": (lambda: nested(torch.jagged), "nested"),
    "nested, strided": (lambda: nested(torch.strided), "nested"),
    "sparse COO": (lambda: SQUARE.to_sparse(), "torch.sparse_coo"),
    "sparse COO, hybrid": (lambda: SQUARE.to_sparse(1), "torch.sparse_coo"),
    "sparse CSR": (lambda: SQUARE.to_sparse_csr(), "torch.sparse_csr"),
    "sparse CSC": (lambda: SQUARE.to_sparse_csc(), "torch.sparse_csc"),
    "sparse BSR": (lambda: SQUARE.to_sparse_bsr((2, 2)), "torch.sparse_bsr"),
    "sparse BSC": (lambda: SQUARE.to_sparse_bsc((2, 2)), "torch.sparse_bsc"),
    "MKLDNN": (lambda: SQUARE.to_mkldnn(), "torch._mkldnn"),
    "quantised": (lambda: torch.quantize_per_tensor(SQUARE, 0.1, 0, torch.qint8), "torch.qint8"),
    "quantised by channel": (
        lambda: torch.quantize_per_channel(SQUARE, torch.ones(4), torch.zeros(4), 0, torch.qint8), "torch.qint8"),
    "meta": (lambda: SQUARE.to("meta"), "meta device"),
    "complex": (lambda: SQUARE.to(torch.complex64), "torch.complex64"),
    "complex, conjugated": (lambda: SQUARE.to(torch.complex64).conj(), "torch.complex64"),
    "complex half": (lambda: SQUARE.to(torch.complex32), "torch.complex32"),
    "integers": (lambda: SQUARE.int(), "torch.int32"),
    "truth values": (lambda: SQUARE.bool(), "torch.bool"),
    "a zero tensor": (lambda: torch._efficientzerotensor((4, 4)), "zero tensor"),
    "masked": (lambda: torch.masked.masked_tensor(SQUARE.clone(), SQUARE > 0), "masked"),
    "scales": (lambda: SQUARE.to(torch.float8_e8m0fnu), "torch.float8_e8m0fnu"),
    "four bits": (lambda: torch.zeros(4, 4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2), "torch.float4_e2m1fn_x2"),
    "without a shape": (lambda: torch.nn.UninitializedParameter(), "no shape yet"),
}  # fmt: skip

MAKERS: dict[str, Callable[[Any], Any]] = {
    "AdamW": lambda params: sr.optim.AdamW(params, backend="eager"),
    "Adagrad": lambda params: sr.optim.Adagrad(params, clip=1.0, nonfinite="skip", backend="eager"),
    "look-ahead": lambda params: sr.Optimizer(params, board.nesterov, lr=0.1, backend="eager"),
}


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """torch warns of kinds that it is still at work on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def parameter(kind: str) -> torch.nn.Parameter:
    tensor = KINDS[kind][0]()
    if isinstance(tensor, torch.nn.Parameter):
        return tensor
    return torch.nn.Parameter(tensor, requires_grad=tensor.is_floating_point() or tensor.is_complex())


def good() -> torch.nn.Parameter:
    found = torch.nn.Parameter(torch.ones(3))
    found.grad = torch.ones(3)
    return found


def refused(action: Callable[[], Any], told: str, kind: type[StepruleError] = ParameterError) -> None:
    with pytest.raises(kind) as caught:
        action()
    assert told in caught.value.what
    assert caught.value.where
    assert caught.value.fix


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_odd_parameter_is_held_and_named_at_the_first_step(kind: str, maker: str) -> None:
    """Without a gradient it is no hindrance; with one it is refused, and the good one beside it is not stepped."""
    first, bad = good(), parameter(kind)
    optimizer = MAKERS[maker]([("good", first), ("bad", bad)])
    assert bad not in optimizer.state
    optimizer.step()
    optimizer.step(lambda: 0.0)
    assert not torch.equal(first, torch.ones(3))
    sr.explain(optimizer)
    assert repr(optimizer)
    try:
        bad.grad = bad.detach().clone()
    except (RuntimeError, ValueError, TypeError, NotImplementedError):  # torch itself lets it have none
        return
    before = first.detach().clone()
    for act in (optimizer.step, lambda: optimizer.step(lambda: 0.0)):
        refused(act, KINDS[kind][1])
        assert torch.equal(first, before)
    assert bad not in optimizer.state


@pytest.mark.parametrize("kind", KINDS)
def test_an_odd_gradient_is_named(kind: str) -> None:
    first, beside = good(), torch.nn.Parameter(SQUARE.clone())
    optimizer = MAKERS["AdamW"]([("good", first), ("beside", beside)])
    try:
        beside.grad = KINDS[kind][0]()
    except (RuntimeError, ValueError, TypeError):  # of another type, device or shape: torch itself refuses
        return
    kept = optimizer.state_dict()["state"].keys()
    refused(optimizer.step, KINDS[kind][1])
    assert torch.equal(first, torch.ones(3))
    assert torch.equal(beside, SQUARE)
    assert optimizer.state_dict()["state"].keys() == kept


def stepped() -> tuple[Any, torch.nn.Parameter]:
    found = torch.nn.Parameter(SQUARE.clone())
    optimizer = MAKERS["AdamW"]([("weight", found)])
    found.grad = SQUARE.clone()
    optimizer.step()
    return optimizer, found


@pytest.mark.parametrize("key", ["exp_avg", "step"])
@pytest.mark.parametrize("kind", KINDS)
def test_odd_state_is_named_where_it_is_loaded_and_where_it_is_stepped(kind: str, key: str) -> None:
    optimizer, found = stepped()
    before = bits(optimizer)
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][0][key] = KINDS[kind][0]()
    refused(lambda: optimizer.load_state_dict(saved), f"'{key}'", StateError)
    assert bits(optimizer) == before
    kept = optimizer.state[found][key]
    optimizer.state[found][key] = KINDS[kind][0]()
    weight = found.detach().clone()
    refused(optimizer.step, f"state '{key}'")
    assert torch.equal(found, weight)
    optimizer.state[found][key] = kept
    assert bits(optimizer) == before
    optimizer.step()


@pytest.mark.parametrize("kind", KINDS)
def test_an_odd_tensor_that_no_rule_reads_is_kept(kind: str) -> None:
    """Under a key of somebody else's, in the state of a parameter or beside it."""
    optimizer, found = stepped()
    optimizer.state[found]["theirs"] = optimizer.state["theirs"] = KINDS[kind][0]()
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step()
    assert type(optimizer.state["theirs"]) is type(optimizer.state[found]["theirs"]) is type(KINDS[kind][0]())


@pytest.mark.parametrize("kind", KINDS)
def test_an_odd_hyperparameter_is_refused(kind: str) -> None:
    value = KINDS[kind][0]()
    with pytest.raises(StepruleError) as caught:
        sr.optim.AdamW([good()], lr=value)
    assert caught.value.fix
    optimizer = MAKERS["AdamW"]([good()])
    optimizer.param_groups[0]["lr"] = value
    with pytest.raises(StepruleError):
        optimizer.step()
    assert torch.equal(optimizer.param_groups[0]["params"][0], torch.ones(3))


@pytest.mark.parametrize(
    "value", ["much", [1.0], {}, object(), torch.ones(2), torch.ones(4, 5)], ids=lambda v: str(type(v))
)
@pytest.mark.parametrize("key", ["exp_avg", "step"])
def test_what_is_no_slot_at_all_is_named_where_it_is_stepped(key: str, value: Any) -> None:
    optimizer, found = stepped()
    kept, weight = optimizer.state[found][key], found.detach().clone()
    optimizer.state[found][key] = value
    refused(optimizer.step, f"state '{key}'")
    assert torch.equal(found, weight)
    optimizer.state[found][key] = kept
    optimizer.step()


@pytest.mark.parametrize("count", [torch.tensor(5), torch.tensor(True), 5, 5.0], ids=repr)
def test_counts_of_other_types_are_taken(count: Any) -> None:
    optimizer, found = stepped()
    optimizer.state[found]["step"] = count
    optimizer.step()
    assert float(optimizer.state[found]["step"]) == float(count) + 1
