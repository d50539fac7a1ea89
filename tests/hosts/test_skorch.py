"""skorch: our optimisers in its closures, searched by scikit-learn, with its clipping, schedules and checkpoints."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hosting import HYPER, MAX_NORM, OURS, assert_apart, assert_close, assert_same, weights

import steprule as sr

skorch = pytest.importorskip("skorch")
callbacks = pytest.importorskip("skorch.callbacks")
model_selection = pytest.importorskip("sklearn.model_selection")

pytestmark = [pytest.mark.cpu, pytest.mark.host("skorch")]

EPOCHS = 4


class Layers(torch.nn.Module):
    """A small network with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = torch.nn.Linear(4, 16), torch.nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.nn.functional.dropout(torch.nn.functional.gelu(self.first(x)), 0.1, self.training))


class Halving(callbacks.Callback):
    """Halve the rate at every epoch, through skorch's own setter; and seed, as its checkpoints hold no random state."""

    def on_epoch_begin(self, net: Any, **_: Any) -> None:
        epoch = len(net.history)
        torch.manual_seed(epoch)
        net.set_params(lr=HYPER["lr"] * 0.5**epoch)


def data() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(24, 4)).astype(np.float32)
    return x, x[:, :3].argmax(axis=1).astype(np.int64)


def net(optimizer: Any, calls: list[Any], epochs: int = EPOCHS, **options: Any) -> Any:
    torch.manual_seed(0)
    criterion = torch.nn.CrossEntropyLoss
    options = {"lr": HYPER["lr"], "optimizer__eps": HYPER["eps"], **options}
    return skorch.NeuralNetClassifier(
        Layers, optimizer=optimizer, criterion=criterion, max_epochs=epochs, batch_size=6, train_split=None, verbose=0,
        iterator_train__shuffle=True, callbacks=calls, callbacks__print_log=None, **options)  # fmt: skip


def fit(optimizer: Any, *calls: Any, **options: Any) -> dict[str, torch.Tensor]:
    schedule = callbacks.LRScheduler("CosineAnnealingLR", T_max=10, step_every="batch")
    return weights(net(optimizer, [schedule, *calls], **options).fit(*data()).module_)


@pytest.mark.parametrize("kind", OURS)
def test_clipping_in_the_step_gives_what_skorchs_clipping_gives_with_torch(kind: str) -> None:
    ours = fit(OURS[kind], optimizer__clip=MAX_NORM)
    clipping = callbacks.GradientNormClipping(MAX_NORM)
    assert_close(ours, fit(torch.optim.AdamW, clipping))
    assert_apart(ours, fit(torch.optim.AdamW))
    assert_close(ours, fit(OURS[kind], clipping))


@pytest.mark.parametrize("kind", OURS)
def test_skorchs_groups_by_name_give_what_they_give_with_torch(kind: str) -> None:
    groups = [("first*", {"lr": 0.05}), ("*bias", {"weight_decay": 0.5})]
    ours = fit(OURS[kind], optimizer__param_groups=groups)
    assert_close(ours, fit(torch.optim.AdamW, optimizer__param_groups=groups))
    assert_apart(ours, fit(torch.optim.AdamW))


@pytest.mark.parametrize("optimizer", [*OURS.values(), sr.board.adam.optimizer])
def test_an_interrupted_run_ends_bit_by_bit_where_it_would_have(optimizer: Any, tmp_path: Path) -> None:
    """Each net finds the other's last checkpoint in the folder, with skorch's callbacks for that."""
    calls = [Halving()]
    whole = net(optimizer, calls, optimizer__clip=MAX_NORM).fit(*data())
    for _ in range(2):
        last = callbacks.Checkpoint(dirname=tmp_path, monitor=None)
        half = net(optimizer, [callbacks.LoadInitState(last), last, *calls], EPOCHS // 2, optimizer__clip=MAX_NORM)
        half.fit(*data())
    assert len(half.history) == EPOCHS
    assert_same(weights(half.module_), weights(whole.module_))


@pytest.mark.parametrize("optimizer", [*OURS.values(), sr.board.adam.optimizer])
def test_a_pickled_net_goes_on_bit_by_bit(optimizer: Any) -> None:
    half = net(optimizer, [Halving()], EPOCHS // 2, optimizer__clip=MAX_NORM).fit(*data())
    again = pickle.loads(pickle.dumps(half))  # noqa: S301
    assert_same(weights(again.partial_fit(*data()).module_), weights(half.partial_fit(*data()).module_))


@pytest.mark.parametrize(("first", "then"), [(torch.optim.AdamW, sr.optim.AdamW), (sr.optim.AdamW, torch.optim.AdamW)])
def test_a_run_may_change_between_torch_and_ours_at_a_checkpoint(first: Any, then: Any, tmp_path: Path) -> None:
    for optimizer in (first, then):
        last = callbacks.Checkpoint(dirname=tmp_path, monitor=None)
        half = net(optimizer, [callbacks.LoadInitState(last), last, Halving()], EPOCHS // 2).fit(*data())
    assert_close(weights(half.module_), weights(net(torch.optim.AdamW, [Halving()]).fit(*data()).module_))


@pytest.mark.parametrize("kind", OURS)
def test_a_grid_search_over_rates_and_decays_scores_as_with_torch(kind: str) -> None:
    grid = {"lr": [1e-5, 0.3], "optimizer__weight_decay": [0.0, 0.5]}

    def scores(optimizer: Any) -> np.ndarray:
        search = model_selection.GridSearchCV(net(optimizer, []), grid, cv=2, scoring="neg_log_loss")
        return search.fit(*data()).cv_results_["mean_test_score"]

    ours = scores(OURS[kind])
    assert len({round(score, 3) for score in ours}) > 2
    np.testing.assert_allclose(ours, scores(torch.optim.AdamW), rtol=1e-5)
