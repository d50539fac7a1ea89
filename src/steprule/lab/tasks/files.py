"""The tasks whose data is read from files: MNIST and CIFAR-10."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from steprule.lab.budget import Budget
from steprule.lab.data import Data
from steprule.lab.published import cifar10 as read_cifar10
from steprule.lab.published import mnist as read_mnist
from steprule.lab.tasks.base import ACCURACY, Exhibit, Task, accuracy
from steprule.lab.tasks.models import perceptron
from steprule.lab.tasks.pictures import png, row

SHOWN = 16


class Pixels(nn.Module):
    """Pixels as numbers of about unit size: data of bytes takes a quarter of the memory."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the pixels as numbers from -1 to 1."""
        return inputs.float() / 127.5 - 1


def mnist_mlp(data_dir: str, hidden: tuple[int, ...] = (128,)) -> Task:
    """Return the perceptron on MNIST: 70,000 handwritten digits, 28×28."""
    data = read_mnist(Path(data_dir))
    sizes = (784, *hidden, 10)
    first = 1 - data.train.inputs[:SHOWN] / 255
    return Task(
        name="mnist",
        title="MNIST",
        about=f"MNIST (LeCun, Cortes & Burges): {_count(data):,} real 28×28 images of handwritten digits",
        network="–".join(map(str, sizes)) + " perceptron, ReLU, cross-entropy",
        data=data,
        model=lambda _: nn.Sequential(Pixels(), nn.Flatten(), *perceptron(sizes)),
        loss=cross_entropy,
        metric=ACCURACY,
        measure=accuracy,
        target=0.96,
        budget=Budget(epochs=3, batch_size=128),
        reference=(Exhibit("The first training images, side by side", png=png(row(first))),),
    )


def small_convolutional() -> nn.Sequential:
    """Return a convolutional network for 32×32 pictures in colour that one core trains in half a minute."""
    layers: list[nn.Module] = [Pixels()]
    for channels_in, channels in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(channels_in, channels, 3, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 4 * 4, 10))


def cifar10_cnn(data_dir: str) -> Task:
    """Return the convolutional network on CIFAR-10: 60,000 photographs of ten kinds of things, 32×32."""
    data = read_cifar10(Path(data_dir))
    first = data.train.inputs[:SHOWN].permute(0, 2, 3, 1) / 255
    return Task(
        name="cifar10",
        title="CIFAR-10",
        about=f"CIFAR-10 (Krizhevsky, 2009): {_count(data):,} real 32×32 photographs of ten kinds of things",
        network="convolutional network of 16, 32 and 64 channels in strides of 2, ReLU, cross-entropy",
        data=data,
        model=lambda _: small_convolutional(),
        loss=cross_entropy,
        metric=ACCURACY,
        measure=accuracy,
        target=0.45,
        budget=Budget(epochs=2, batch_size=128),
        reference=(Exhibit("The first training images, side by side", png=png(row(first))),),
    )


def _count(data: Data) -> int:
    return sum(map(len, (data.train, data.validation, data.test)))
