"""What torch's optimisers save, load and show to hooks, ours do: every scenario is played by both, and compared."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import CLASSES

import steprule as sr
from steprule.errors import StateError, StepruleError

pytestmark = pytest.mark.null

OPTIONS: dict[str, dict[str, Any]] = {"SGD": {"momentum": 0.9}, "RMSprop": {"momentum": 0.9, "centered": True}}


def made(ours: bool, name: str, steps: int = 1) -> Any:
    """Return an optimiser of two parameters, after some steps."""
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(3)), torch.nn.Parameter(torch.randn(2, 2))]
    own = {"backend": "eager"} if ours else {}
    optimizer = getattr(sr.optim if ours else torch.optim, name)(parameters, **OPTIONS.get(name, {}), **own)
    for _ in range(steps):
        stepped(optimizer)
    return optimizer


def stepped(optimizer: Any) -> None:
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def form(value: Any) -> Any:
    """Return the form of a document: containers, keys, types and plain values; of tensors, what they are."""
    if isinstance(value, torch.nn.Parameter):
        return "parameter"
    if isinstance(value, torch.Tensor):
        return ("tensor", tuple(value.shape), value.dtype)
    if isinstance(value, dict):
        items = {key if not isinstance(key, torch.Tensor) else "parameter": form(own) for key, own in value.items()}
        return (type(value).__name__, items)
    if isinstance(value, list | tuple):
        return (type(value).__name__, [form(own) for own in value])
    return value if isinstance(value, int | float | str | bool | None) else type(value).__name__


def entries(optimizer: Any) -> Any:
    """Return the form of a live state, a key each."""
    keys = [key if not isinstance(key, torch.Tensor) else f"parameter {i}" for i, key in enumerate(optimizer.state)]
    hidden = getattr(optimizer, "_hidden", {})
    values = [
        {k: v for k, v in own.items() if k not in hidden} if isinstance(key, torch.Tensor) else own
        for key, own in optimizer.state.items()
    ]
    return sorted(zip(map(str, keys), map(form, values), strict=True), key=lambda pair: pair[0])


FOREIGN: dict[str, Callable[[], tuple[Any, Any]]] = {
    "a number": lambda: ("ema", 3),
    "a dict": lambda: ("average", {"decay": 0.9, "weights": torch.arange(3.0), "deep": {"n": [1, torch.ones(2)]}}),
    "a list": lambda: ("list", [1, "two", torch.ones(1)]),
    "a tensor": lambda: ("tensor", torch.arange(4)),
    "nothing": lambda: ("none", None),
    "text": lambda: ("text", "kept"),
    "an empty dict": lambda: ("empty", {}),
    "under a tuple": lambda: (("a", 1), {"b": 2}),
    "under a number": lambda: (7, "seven"),
    "a dict under a number": lambda: (8, {"eight": 8}),
    "under digits": lambda: ("9", {"nine": 9}),
    "with a slot's name": lambda: ("started", {"started": 1.0}),
    "an ordered dict": lambda: ("ordered", OrderedDict(a=torch.ones(1), b=2)),
    "with a history": lambda: ("graph", {"a": torch.ones(2, requires_grad=True) * 2}),
    "what cannot be copied": lambda: ("lock", threading.Lock()),
}


FEW = [
    (name, kind) for name in CLASSES for kind in FOREIGN if name in {"SGD", "AdamW"} or kind in {"a number", "a dict"}
]


@pytest.mark.parametrize(("name", "kind"), FEW)
def test_entries_under_foreign_keys_are_saved_and_loaded_as_torch_does(name: str, kind: str) -> None:
    """Into the same class, from torch's file into ours, and from ours into torch's."""
    told = []
    for source, target in ((False, False), (True, True), (False, True), (True, False)):
        optimizer = made(source, name)
        key, value = FOREIGN[kind]()
        optimizer.state[key] = value
        saved = optimizer.state_dict()
        before = form(saved)
        again = made(target, name, steps=0)
        again.load_state_dict(saved)
        assert form(saved) == before
        assert form(again.state[key]) == form(value)
        told.append((before[1]["state"], entries(again), form(again.state_dict())[1]["state"]))
        stepped(again)
        assert form(again.state[key]) == form(value)
    assert told == [told[0]] * 4


@pytest.mark.parametrize("name", CLASSES)
def test_a_foreign_entry_is_no_hindrance_to_steps_copies_and_pickles(name: str) -> None:
    optimizer, other = made(True, name, 0), made(True, name, 0)
    optimizer.state["ema"] = 3
    for turn in range(3):
        optimizer.state["ema"] += turn
        stepped(optimizer)
        stepped(other)
    for mine, its in zip(optimizer.param_groups[0]["params"], other.param_groups[0]["params"], strict=True):
        assert torch.equal(mine, its)
    assert copy.deepcopy(optimizer).state["ema"] == 6


Scenario = Callable[[Any, list[Any]], Any]


def wrapped(optimizer: Any, told: list[Any]) -> Any:
    optimizer.register_state_dict_post_hook(lambda _, saved: {"version": 2, "inner": saved})
    optimizer.register_load_state_dict_pre_hook(lambda _, saved: saved["inner"])
    return optimizer.state_dict()


def wrapped_twice(optimizer: Any, told: list[Any]) -> Any:
    optimizer.register_state_dict_post_hook(lambda _, saved: {"first": saved})
    optimizer.register_state_dict_post_hook(lambda _, saved: {"second": saved})
    optimizer.register_load_state_dict_pre_hook(lambda _, saved: saved["second"])
    optimizer.register_load_state_dict_pre_hook(lambda _, saved: told.append(form(saved)))
    optimizer.register_load_state_dict_pre_hook(lambda _, saved: saved["first"])
    return optimizer.state_dict()


def a_list(optimizer: Any, told: list[Any]) -> Any:
    optimizer.register_state_dict_post_hook(lambda _, saved: [saved])
    optimizer.register_load_state_dict_pre_hook(lambda _, saved: saved[0])
    return optimizer.state_dict()


def looked_at(optimizer: Any, told: list[Any]) -> Any:
    optimizer.register_state_dict_pre_hook(lambda owner: told.append(("pre", len(owner.state))))
    optimizer.register_state_dict_post_hook(lambda _, saved: told.append(("post", form(saved))))
    optimizer.register_load_state_dict_pre_hook(lambda _, saved: told.append(("load", form(saved))))
    optimizer.register_load_state_dict_post_hook(lambda owner: told.append(("loaded", len(owner.state))))
    return optimizer.state_dict()


def edited(optimizer: Any, told: list[Any]) -> Any:
    optimizer.register_state_dict_pre_hook(lambda owner: owner.state.__setitem__("seen", 1))

    def post(_: Any, saved: Any) -> None:
        saved["more"] = 1
        saved["param_groups"][0]["note"] = "a"
        saved["state"].pop(1, None)
        saved["state"]["ema"] = {"a": 1}

    optimizer.register_state_dict_post_hook(post)
    optimizer.register_load_state_dict_pre_hook(lambda _, saved: saved["state"].update(late=2))
    return optimizer.state_dict()


def replaced_on_load(optimizer: Any, told: list[Any]) -> Any:
    saved = optimizer.state_dict()

    def renamed(_: Any, given: Any) -> Any:
        told.append(given is saved)
        new = {**given, "state": {f"w{key}": own for key, own in given["state"].items()}}
        new["param_groups"] = [
            {**group, "params": [f"w{key}" for key in group["params"]]} for group in given["param_groups"]
        ]
        return new

    optimizer.register_load_state_dict_pre_hook(renamed)
    return saved


def emptied_on_load(optimizer: Any, told: list[Any]) -> Any:
    optimizer.register_load_state_dict_pre_hook(lambda _, saved: {**saved, "state": {}})
    return optimizer.state_dict()


def rebound_in_the_copy(optimizer: Any, told: list[Any]) -> Any:
    """A pre hook is given a shallow copy: what it rebinds there, the caller's document does not show."""
    saved = optimizer.state_dict()
    optimizer.register_load_state_dict_pre_hook(lambda _, given: given.update(state={}, extra=1))
    optimizer.register_load_state_dict_post_hook(lambda _: told.append(sorted(saved)))
    return saved


def in_order(optimizer: Any, told: list[Any]) -> Any:
    for kind in ("state_dict_pre", "state_dict_post", "load_state_dict_pre", "load_state_dict_post"):
        register = getattr(optimizer, f"register_{kind}_hook")
        for mark, prepend in (("a", False), ("b", True), ("c", False)):
            register(lambda *_, told_as=f"{kind} {mark}": told.append(told_as), prepend=prepend)
    return optimizer.state_dict()


def removed(optimizer: Any, told: list[Any]) -> Any:
    handles = [optimizer.register_state_dict_post_hook(lambda *_: told.append("gone")),
               optimizer.register_load_state_dict_pre_hook(lambda *_: told.append("gone"))]  # fmt: skip
    for handle in handles:
        handle.remove()
    return optimizer.state_dict()


def touched(optimizer: Any, told: list[Any]) -> Any:
    """Reading `state[p]` makes an empty entry, which torch saves and loads."""
    optimizer.state.clear()
    assert optimizer.state[optimizer.param_groups[0]["params"][1]] == {}
    return optimizer.state_dict()


def with_more_at_the_top(optimizer: Any, told: list[Any]) -> Any:
    return OrderedDict(**optimizer.state_dict(), epoch=3, notes={"a": torch.ones(1)})


def with_more_in_a_parameter(optimizer: Any, told: list[Any]) -> Any:
    own = optimizer.state[optimizer.param_groups[0]["params"][0]]
    own.update(none=None, deep={"a": [1, (2, 3)]}, count=4, flag=True)
    return optimizer.state_dict()


def without_state(optimizer: Any, told: list[Any]) -> Any:
    return {"state": {}, "param_groups": optimizer.state_dict()["param_groups"]}


def with_a_group_of_less(optimizer: Any, told: list[Any]) -> Any:
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0].pop("maximize")
    saved["param_groups"][0].update(initial_lr=0.1, name="head", params=["x", "y"])
    saved["state"] = dict(zip(["x", "y"], saved["state"].values(), strict=False))
    return saved


SCENARIOS: list[Scenario] = [
    wrapped, wrapped_twice, a_list, looked_at, edited, replaced_on_load, emptied_on_load, rebound_in_the_copy, in_order,
    removed, touched, with_more_at_the_top, with_more_in_a_parameter, without_state, with_a_group_of_less,
]  # fmt: skip


NOT_PLAYED = [("Adagrad", touched), ("SGD", touched)]
"""torch's Adagrad does not load what it saves then; ours of SGD keeps no state where there is nothing in it."""
PLAYED = [(name, scenario) for name in CLASSES for scenario in SCENARIOS if (name, scenario) not in NOT_PLAYED]


@pytest.mark.parametrize(("name", "scenario"), PLAYED, ids=lambda value: getattr(value, "__name__", value))
def test_documents_and_hooks_are_handled_as_torch_does(name: str, scenario: Scenario) -> None:
    ends = []
    for ours in (False, True):
        optimizer, told = made(ours, name), []
        saved = scenario(optimizer, told)
        documents = [form(saved)]
        optimizer.load_state_dict(saved)
        documents += [form(saved), entries(optimizer)]
        groups = [{key: form(value) for key, value in group.items()} for group in optimizer.param_groups]
        stepped(optimizer)
        ends.append((documents, told, groups, entries(optimizer), form(optimizer.state_dict())))
    (documents, told, groups, *rest), own = ends[0], ends[1]
    assert own[0] == documents
    assert own[1] == told
    assert [{**group, "maximize": False} for group in own[2]] == [{**group, "maximize": False} for group in groups]
    assert list(own[3:]) == rest


def test_text_in_a_state_stays_text() -> None:
    """torch makes the name of a generator of it."""
    optimizer = made(True, "Adam")
    optimizer.state[optimizer.param_groups[0]["params"][0]]["note"] = "kept"
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.state[optimizer.param_groups[0]["params"][0]]["note"] == "kept"


@pytest.mark.parametrize("name", CLASSES)
def test_one_parameter_twice_in_a_group_is_saved_and_loaded(name: str) -> None:
    for ours in (False, True):
        parameter = torch.nn.Parameter(torch.ones(2))
        with pytest.warns(UserWarning, match="duplicate"):
            optimizer = getattr(sr.optim if ours else torch.optim, name)([parameter, parameter])
        saved = optimizer.state_dict()
        assert len(set(saved["param_groups"][0]["params"])) == 1
        optimizer.load_state_dict(saved)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_two_threads_load_at_once(name: str) -> None:
    """Each document is loaded whole: nothing is registered on the optimiser meanwhile."""
    optimizer = made(True, name)
    documents = []
    for lr in (0.25, 0.5):
        optimizer.param_groups[0]["lr"] = lr
        documents.append(copy.deepcopy(optimizer.state_dict()))
    failed: list[BaseException] = []
    seen: list[int] = []
    optimizer.register_load_state_dict_pre_hook(
        lambda *_: seen.append(len(optimizer._optimizer_load_state_dict_pre_hooks))
    )

    def load(document: Any) -> None:
        try:
            for _ in range(50):
                optimizer.load_state_dict(document)
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    threads = [threading.Thread(target=load, args=[document]) for document in documents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert seen == [1] * 100
    assert len(optimizer._optimizer_load_state_dict_post_hooks) == 0
    assert optimizer.param_groups[0]["lr"] in (0.25, 0.5)
    stepped(optimizer)


LOST: dict[str, Callable[[Any], Any]] = {
    "JSON's keys": lambda saved: {str(key): own for key, own in saved["state"].items()},
    "a key too many": lambda saved: {**saved["state"], 2: saved["state"][0]},
    "a name": lambda saved: {**saved["state"], "weight": saved["state"][0]},
    "another number": lambda saved: {key + 5: own for key, own in saved["state"].items()},
}


@pytest.mark.parametrize("kind", LOST)
def test_a_parameters_state_under_a_key_that_is_none_is_still_refused(kind: str) -> None:
    optimizer = made(True, "AdamW")
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"] = LOST[kind](saved)
    before = form(dict(optimizer.state_dict()))
    with pytest.raises(StateError, match="no parameter of its groups"):
        optimizer.load_state_dict(saved)
    assert form(optimizer.state_dict()) == before


def test_one_key_of_two_parameters_is_refused() -> None:
    optimizer = made(True, "AdamW")
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0]["params"] = [0, 0]
    with pytest.raises(StateError, match="two parameters one key"):
        optimizer.load_state_dict(saved)


@pytest.mark.parametrize("document", [None, [], 5, "state", {"state": 3, "param_groups": []}], ids=repr)
def test_what_is_no_document_is_refused_as_such(document: Any) -> None:
    optimizer = made(True, "SGD")
    with pytest.raises(StepruleError, match=r"no state of an optimiser"):
        optimizer.load_state_dict(document)
