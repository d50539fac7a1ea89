"""The models for timing whole training steps. Each is small enough for its update to matter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from steprule.bench.workloads import Shapes

Loss = Callable[[], torch.Tensor]


class ActorCritic(nn.Module):
    """Two tanh networks of 2 x 64, a diagonal Gaussian and a value, as proximal policy optimisation uses them."""

    def __init__(self, seen: int = 17, actions: int = 6) -> None:
        super().__init__()
        self.actor = nn.Sequential(nn.Linear(seen, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, actions))
        self.critic = nn.Sequential(nn.Linear(seen, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
        self.log_std = nn.Parameter(torch.zeros(actions))

    def loss(self, seen: torch.Tensor, done: torch.Tensor, before: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        """Return the clipped surrogate loss plus the value's squared error."""
        scaled = (done - self.actor(seen)) * torch.exp(-self.log_std)
        likelihood = -(0.5 * scaled.square() + self.log_std).sum(1)
        ratio = torch.exp((likelihood - before).clamp(-5, 5))
        surrogate = torch.minimum(ratio * gain, ratio.clamp(0.8, 1.2) * gain).mean()
        return 0.5 * (self.critic(seen).squeeze(1) - gain).square().mean() - surrogate


class Block(nn.Module):
    """One layer of a decoder: attention to earlier places, then a network, each behind a norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.network = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the next layer's input."""
        batch, length, width = x.shape
        split = self.attend(self.first(x)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.join(seen.transpose(1, 2).reshape(batch, length, width))
        return x + self.network(self.second(x))


class Decoder(nn.Module):
    """A small GPT."""

    def __init__(self, vocabulary: int = 512, width: int = 128, layers: int = 4, context: int = 64) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, 4) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def loss(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the cross-entropy of each next token."""
        seen, following = tokens[:, :-1], tokens[:, 1:]
        x = self.token(seen) + self.place.weight[: seen.shape[1]]
        scores = self.head(self.norm(self.blocks(x)))
        return functional.cross_entropy(scores.flatten(0, 1), following.flatten())


def _perceptron() -> tuple[nn.Module, Loss]:
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    inputs, labels = torch.randn(32, 64), torch.randint(10, (32,))
    return model, lambda: functional.cross_entropy(model(inputs), labels)


def _policy() -> tuple[nn.Module, Loss]:
    model = ActorCritic()
    batch = torch.randn(64, 17), torch.randn(64, 6), torch.randn(64) - 4.0, torch.randn(64)
    return model, lambda: model.loss(*batch)


def _decoder() -> tuple[nn.Module, Loss]:
    model = Decoder()
    tokens = torch.randint(512, (4, 65))
    return model, lambda: model.loss(tokens)


@dataclass(frozen=True)
class Model:
    """A model, the batch it is trained on, and the rule."""

    make: Callable[[], tuple[nn.Module, Loss]]
    rule: str

    def fresh(self) -> tuple[nn.Module, Loss]:
        """Return a model with its loss: the same numbers each time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.make()

    def shapes(self) -> Shapes:
        """Return the shapes of its parameters."""
        model: Any = self.fresh()[0]
        return tuple(tuple(parameter.shape) for parameter in model.parameters())


MODELS = {
    "MLP 64-128-128-10": Model(_perceptron, "AdamW"),
    "RL policy 2 x 64": Model(_policy, "Adam"),
    "small GPT": Model(_decoder, "AdamW"),
}
