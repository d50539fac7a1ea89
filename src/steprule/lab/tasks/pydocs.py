"""A small transformer on the text of Python's own documentation."""

from __future__ import annotations

import hashlib
import math
import platform
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from steprule.lab.budget import Budget
from steprule.lab.data import Data, Split
from steprule.lab.tasks.base import Exhibit, Metric, Task

CONTEXT, WIDTH, HEADS, BLOCKS = 64, 64, 4, 2

LENGTH = 160_000
"""The number of bytes in use: the whole training set must be evaluated within a second."""

HELD = 32
"""One window of this many is for validation, and one for the test."""

WRITTEN = 240
"""Bytes of text that a trained network writes to be looked at."""


@dataclass(frozen=True)
class Corpus:
    """A text as numbers, each standing for one of the bytes that occur in it."""

    alphabet: bytes
    numbers: torch.Tensor
    digest: str


@cache
def corpus() -> Corpus:
    """Return the topics of Python's `help()`, in the order of their names; Python always has them installed."""
    from pydoc_data.topics import topics

    text = "\n".join(topics[name] for name in sorted(topics)).encode()[:LENGTH]
    alphabet = bytes(sorted(set(text)))
    table = torch.zeros(256, dtype=torch.int64)
    table[list(alphabet)] = torch.arange(len(alphabet))
    numbers = table[torch.frombuffer(bytearray(text), dtype=torch.uint8).long()]
    return Corpus(alphabet, numbers, hashlib.sha256(text).hexdigest())


@cache
def _data() -> Data:
    """Return the text in windows that do not overlap. The labels are each window moved by a byte."""
    numbers = corpus().numbers
    count = (len(numbers) - 1) // CONTEXT
    inputs, labels = (numbers[start : start + count * CONTEXT].reshape(count, CONTEXT) for start in (0, 1))
    place = torch.arange(count) % HELD
    parts = ((place != 0) & (place != HELD // 2), place == 0, place == HELD // 2)
    return Data(*(Split(inputs[part], labels[part]) for part in parts))


class DecoderLayer(nn.Module):
    """Attention to earlier places, then a perceptron at every place, each added to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.before_attention, self.before_perceptron = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.asked = nn.Linear(WIDTH, 3 * WIDTH)
        self.answered = nn.Linear(WIDTH, WIDTH)
        self.perceptron = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return as many vectors as came in."""
        asked = self.asked(self.before_attention(x)).unflatten(2, (3, HEADS, WIDTH // HEADS))
        query, key, value = asked.permute(2, 0, 3, 1, 4)
        seen = scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.answered(seen.transpose(1, 2).flatten(2))
        return x + self.perceptron(self.before_perceptron(x))


class Transformer(nn.Module):
    """A decoder of bytes in the manner of GPT-2."""

    def __init__(self, letters: int) -> None:
        super().__init__()
        self.letter, self.place = nn.Embedding(letters, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(DecoderLayer() for _ in range(BLOCKS)))
        self.end = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, letters))
        for embedding in (self.letter, self.place):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return the logits of the byte that follows each place."""
        return self.end(self.blocks(self.letter(numbers) + self.place.weight[: numbers.shape[1]]))


def loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of a byte."""
    return cross_entropy(outputs.flatten(0, 1), labels.flatten())


def bits(outputs: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the bits that a byte costs."""
    return loss(outputs, labels).item() / math.log(2)


def _exhibit(model: nn.Module) -> list[Exhibit]:
    """Let the network write, drawing each byte from its own distribution, with one seed for every network."""
    known, generator = corpus(), torch.Generator().manual_seed(0)
    start = torch.tensor([[known.alphabet.index(b"\n")]])
    written = start
    with torch.no_grad():
        for _ in range(WRITTEN):
            chances = model(written[:, -CONTEXT:])[0, -1].double().softmax(dim=0)
            written = torch.cat([written, torch.multinomial(chances, 1, generator=generator)[None]], dim=1)
    text = bytes(known.alphabet[number] for number in written[0, 1:].tolist())
    return [Exhibit("The network's text", text=text.decode(errors="replace"))]


def _excerpt() -> Exhibit:
    numbers = corpus().numbers[:WRITTEN].tolist()
    return Exhibit("How the text begins", text=bytes(corpus().alphabet[number] for number in numbers).decode())


def pydocs_gpt() -> Task:
    """Return the transformer on Python's documentation."""
    known, version = corpus(), platform.python_version()
    return Task(
        name="pydocs-gpt",
        title="Python's documentation, byte by byte",
        about=f"the first {len(known.numbers):,} bytes of the help() topics installed with Python {version}, "
        f"SHA-256 {known.digest[:16]}",
        network=f"transformer of {BLOCKS} blocks, width {WIDTH}, {HEADS} heads, {CONTEXT} bytes of context, "
        f"{len(known.alphabet)} kinds of byte, cross-entropy",
        data=_data(),
        model=lambda _: Transformer(len(known.alphabet)),
        loss=loss,
        metric=Metric("bits per byte"),
        measure=bits,
        target=3.3,
        budget=Budget(epochs=3, batch_size=16),
        lr_range=(1e-4, 10.0),
        exhibit=_exhibit,
        reference=(_excerpt(),),
    )
