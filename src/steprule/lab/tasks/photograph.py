"""A network of two coordinates that learns one photograph."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import interpolate, mse_loss

from steprule.lab.budget import Budget
from steprule.lab.data import SPLIT_SEED, Data, Split
from steprule.lab.tasks.base import Exhibit, Metric, Task
from steprule.lab.tasks.models import perceptron
from steprule.lab.tasks.pictures import png

HEIGHT, WIDTH = 64, 96
WAVES, SPREAD = 64, 4.0
"""The number of random frequencies that encode a coordinate, and their standard deviation in waves a picture."""


class Coordinates(nn.Module):
    """A perceptron on Fourier features (Tancik et al., 2020): the frequencies are drawn and not learnt."""

    waves: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("waves", 2 * math.pi * SPREAD * torch.randn(2, WAVES))
        self.layers = perceptron((2 * WAVES, 64, 64, 3))

    def forward(self, places: torch.Tensor) -> torch.Tensor:
        """Return red, green and blue at each place."""
        angles = places @ self.waves
        return torch.sigmoid(self.layers(torch.cat([angles.sin(), angles.cos()], dim=1)))


@cache
def photograph() -> torch.Tensor:
    """Return scikit-learn's photograph of a flower, made smaller, as (height, width, 3) numbers in [0, 1]."""
    from sklearn.datasets import load_sample_image

    whole: Any = load_sample_image("flower.jpg")
    pixels = torch.from_numpy(np.array(whole)).permute(2, 0, 1)[None].float() / 255
    smaller = interpolate(pixels, size=(HEIGHT, WIDTH), mode="area")
    return smaller[0].permute(1, 2, 0).contiguous()


@cache
def places() -> torch.Tensor:
    """Return every pixel's place, its height and width as numbers in (0, 1), row by row."""
    down, across = ((torch.arange(count) + 0.5) / count for count in (HEIGHT, WIDTH))
    return torch.cartesian_prod(down, across)


@cache
def _data() -> Data:
    """Return half the pixels to learn from, and a quarter each to validate and to test."""
    colours, count = photograph().reshape(-1, 3), HEIGHT * WIDTH
    order = torch.randperm(count, generator=torch.Generator().manual_seed(SPLIT_SEED))
    parts = order.split([count // 2, count // 4, count // 4])
    return Data(*(Split(places()[part], colours[part]) for part in parts))


def decibels(outputs: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the peak signal-to-noise ratio."""
    return -10 * math.log10(max(mse_loss(outputs, labels).item(), 1e-20))


def _exhibit(model: nn.Module) -> list[Exhibit]:
    with torch.no_grad():
        return [Exhibit("The network's picture", png=png(model(places()).reshape(HEIGHT, WIDTH, 3)))]


def image_coords() -> Task:
    """Return the network that learns a photograph."""
    return Task(
        name="image-coords",
        title="a photograph from its coordinates",
        about=f"scikit-learn's bundled photograph of a flower at {WIDTH}×{HEIGHT}: colours at half the pixels are "
        "for training, those between for the test",
        network=f"{WAVES} random Fourier features and a {2 * WAVES}–64–64–3 perceptron, ReLU, mean squared error",
        data=_data(),
        model=lambda _: Coordinates(),
        loss=mse_loss,
        metric=Metric("PSNR", higher=True, unit="dB"),
        measure=decibels,
        target=26.0,
        budget=Budget(epochs=60, batch_size=128),
        lr_range=(1e-4, 10.0),
        exhibit=_exhibit,
        reference=(Exhibit("The photograph", png=png(photograph())),),
    )
