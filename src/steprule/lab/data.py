"""Data that ships with scikit-learn, split once and for all; the order of the mini-batches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

SPLIT_SEED = 20
"""The split belongs to the task, not to a run: every seed of every method sees the same three sets."""


@dataclass(frozen=True)
class Split:
    """One of the three sets: inputs and labels, whose leading index is the example.

    >>> import torch
    >>> from steprule.lab import Split
    >>> len(Split(torch.zeros(12, 2), torch.zeros(12)))
    12
    """

    inputs: torch.Tensor
    """What the network is given."""
    labels: torch.Tensor
    """What the loss compares its outputs with."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Data:
    """Examples to learn from, to choose the learning rate on, and to score once.

    >>> import torch
    >>> from steprule.lab import Data, Split
    >>> x, y = torch.linspace(0, 1, 30)[:, None], torch.arange(30) % 2
    >>> data = Data(*(Split(x[part::3], y[part::3]) for part in range(3)))
    >>> len(data.train), len(data.validation), len(data.test)
    (10, 10, 10)
    """

    train: Split
    """To learn from."""
    validation: Split
    """To choose hyperparameters on."""
    test: Split
    """To be scored on, once."""


@cache
def digits() -> Data:
    """Load the 1,797 digits as 64 numbers in [0, 1] each, split 60/20/20 with equal class shares."""
    # Imported here: scikit-learn takes a second to load, and `steprule explain` does not need it.
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    inputs, labels = np.asarray(bunch.data, dtype=np.float32) / 16, np.asarray(bunch.target)
    return _assemble(inputs, labels, _split(labels, 360))


@cache
def cancer() -> Data:
    """Load the 569 tumours as 30 measurements each, split 60/20/20 with equal class shares.

    The training set alone centres and scales every measurement: the other two sets teach nothing. They stay in
    double precision, because the task has a known optimum.
    """
    from sklearn.datasets import load_breast_cancer

    bunch: Any = load_breast_cancer()
    inputs, labels = np.asarray(bunch.data, dtype=np.float64), np.asarray(bunch.target)
    parts = _split(labels, 114)
    known = inputs[parts[0]]
    return _assemble((inputs - known.mean(axis=0)) / known.std(axis=0), labels, parts)


def _split(labels: Any, held: int) -> tuple[Any, Any, Any]:
    """Return the indices of the three sets, in order; validation and test have `held` examples each."""
    from sklearn.model_selection import train_test_split

    rest, test = train_test_split(np.arange(len(labels)), test_size=held, stratify=labels, random_state=SPLIT_SEED)
    train, validation = train_test_split(rest, test_size=held, stratify=labels[rest], random_state=SPLIT_SEED)
    return np.sort(train), np.sort(validation), np.sort(test)


def _assemble(inputs: Any, labels: Any, parts: tuple[Any, Any, Any]) -> Data:
    """Return the three sets as tensors."""
    sets = (Split(torch.from_numpy(inputs[part]), torch.from_numpy(labels[part].astype(np.int64))) for part in parts)
    return Data(*sets)


def batches(size: int, batch_size: int, seed: int) -> Iterator[torch.Tensor]:
    """Yield the indices of one mini-batch after another, for ever; each epoch is a fresh permutation.

    The order depends on the three arguments alone, so every method meets the same batches. The last batch of
    an epoch is smaller when the sizes do not divide: an epoch shows each example exactly once.
    """
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(size, generator=generator).split(batch_size)
