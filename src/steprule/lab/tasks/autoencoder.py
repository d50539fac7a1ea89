"""A deep autoencoder on the digits: the classic case on which plain gradient descent stalls."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from steprule.lab.budget import Budget
from steprule.lab.data import Data, Split, digits
from steprule.lab.tasks.base import Exhibit, Metric, Task
from steprule.lab.tasks.pictures import png, row

SIZES = (64, 128, 64, 32, 16, 8, 16, 32, 64, 128, 64)
"""Down to a code of eight numbers and back: ten layers of weights."""

FED_BY = 15
"""How many units of the layer before feed each unit at the start (Martens, 2010)."""

SHOWN = 16


def autoencoder() -> nn.Sequential:
    """Return the network; its code is linear, its other hidden units are sigmoids."""
    layers: list[nn.Module] = []
    for place, (fan_in, fan_out) in enumerate(pairwise(SIZES), start=1):
        layers.append(_sparse(nn.Linear(fan_in, fan_out)))
        if SIZES[place] != min(SIZES) and place < len(SIZES) - 1:
            layers.append(nn.Sigmoid())
    return nn.Sequential(*layers)


def _sparse(layer: nn.Linear) -> nn.Linear:
    """Give each unit a few weights from a standard normal and no bias: more would saturate a sigmoid."""
    with torch.no_grad():
        chosen = torch.rand_like(layer.weight).argsort(dim=1) < FED_BY
        layer.weight.copy_(torch.randn_like(layer.weight) * chosen)
        layer.bias.zero_()
    return layer


def loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of a picture, summed over its pixels."""
    return binary_cross_entropy_with_logits(outputs, labels, reduction="sum") / len(labels)


def squared_error(outputs: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the squared error of a picture, summed over its pixels."""
    return (torch.sigmoid(outputs) - labels).square().sum(dim=1).mean().item()


def _data() -> Data:
    known = digits()
    return Data(*(Split(part.inputs, part.inputs) for part in (known.train, known.validation, known.test)))


def _pictures(pixels: torch.Tensor) -> bytes:
    return png(row(1 - pixels.reshape(-1, 8, 8)))


def digits_autoencoder() -> Task:
    """Return the autoencoder on the digits."""
    first = digits().test.inputs[:SHOWN]

    def exhibit(model: nn.Module) -> list[Exhibit]:
        with torch.no_grad():
            return [Exhibit("The same, from their codes", png=_pictures(torch.sigmoid(model(first))))]

    return Task(
        name="digits-autoencoder",
        title="an autoencoder of handwritten digits",
        about="scikit-learn's bundled digits: 1,797 real 8×8 images, each to be rebuilt from eight numbers "
        "(after Hinton & Salakhutdinov, 2006, and Martens, 2010)",
        network="–".join(map(str, SIZES)) + " autoencoder, sigmoid, linear code, cross-entropy of a picture",
        data=_data(),
        model=lambda _: autoencoder(),
        loss=loss,
        metric=Metric("squared error a picture"),
        measure=squared_error,
        target=2.0,
        budget=Budget(epochs=60),
        lr_range=(1e-4, 1.0),
        exhibit=exhibit,
        reference=(Exhibit(f"The first {SHOWN} test images", png=_pictures(first)),),
    )
