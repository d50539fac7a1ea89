"""Stable-Baselines3: our optimisers in its policies, with its rate schedule, its clipping, and its save and load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hosting import HYPER, MAX_NORM, OURS, assert_apart, assert_close, assert_same, weights

import steprule as sr

sb3 = pytest.importorskip("stable_baselines3")
gymnasium = pytest.importorskip("gymnasium")
common = pytest.importorskip("stable_baselines3.common.callbacks")

pytestmark = [pytest.mark.cpu, pytest.mark.host("Stable-Baselines3")]

ROLLOUT, STEPS, HALF = 16, 64, 32
UNBOUNDED = float("inf")


class Line(gymnasium.Env):
    """Walk to the right on a line, for eight steps: a rollout ends where an episode does."""

    observation_space = gymnasium.spaces.Box(-8, 8, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.at, self.left = 0, 8
        return self._seen(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.at, self.left = self.at + 2 * int(action) - 1, self.left - 1
        return self._seen(), float(self.at), self.left == 0, False, {}

    def _seen(self) -> np.ndarray:
        return np.array([self.at, self.left], np.float32)


class AtRollouts(common.BaseCallback):
    """Seed each rollout, as a saved model holds no random state; and save the model at one of them if asked to."""

    def __init__(self, save: Path | None = None) -> None:
        super().__init__()
        self.save = save

    def _on_rollout_start(self) -> None:
        torch.manual_seed(self.num_timesteps)
        np.random.seed(self.num_timesteps)  # noqa: NPY002
        if self.save is not None and self.num_timesteps == HALF:
            self.model.save(self.save)

    def _on_step(self) -> bool:
        return True


def rate(remaining: float) -> float:
    return HYPER["lr"] * remaining


def agent(kind: str, optimizer: Any, max_norm: float = UNBOUNDED, **hyper: Any) -> Any:
    """Make a PPO or an A2C agent; A2C takes one step a rollout, PPO several on shuffled parts of it."""
    own = {"batch_size": 8, "n_epochs": 2} if kind == "PPO" else {}
    policy = {"net_arch": [8], "optimizer_class": optimizer, "optimizer_kwargs": {"eps": HYPER["eps"], **hyper}}
    return getattr(sb3, kind)("MlpPolicy", Line(), learning_rate=rate, n_steps=ROLLOUT, max_grad_norm=max_norm,
                              policy_kwargs=policy, seed=0, device="cpu", **own)  # fmt: skip


def learn(made: Any, save: Path | None = None) -> dict[str, torch.Tensor]:
    made.learn(STEPS, callback=AtRollouts(save))
    return weights(made.policy)


@pytest.mark.parametrize("algorithm", ["PPO", "A2C"])
@pytest.mark.parametrize("kind", OURS)
def test_clipping_in_the_step_gives_what_the_agents_clipping_gives_with_torch(algorithm: str, kind: str) -> None:
    ours = learn(agent(algorithm, OURS[kind], clip=MAX_NORM))
    assert_close(ours, learn(agent(algorithm, torch.optim.AdamW, MAX_NORM)))
    assert_apart(ours, learn(agent(algorithm, torch.optim.AdamW)))
    assert_close(ours, learn(agent(algorithm, OURS[kind], MAX_NORM)))


@pytest.mark.parametrize("algorithm", ["PPO", "A2C"])
@pytest.mark.parametrize("optimizer", [*OURS.values(), sr.board.adam.optimizer])
def test_an_interrupted_run_ends_bit_by_bit_where_it_would_have(algorithm: str, optimizer: Any, tmp_path: Path) -> None:
    """The archive holds the policy, the optimiser's state and, pickled, the optimiser's class."""
    whole = learn(agent(algorithm, optimizer, clip=MAX_NORM), tmp_path / "half.zip")
    loaded = getattr(sb3, algorithm).load(tmp_path / "half.zip", env=Line(), device="cpu")
    assert loaded.num_timesteps == HALF
    assert type(loaded.policy.optimizer) is type(optimizer(torch.nn.Linear(1, 1).parameters()))
    loaded.learn(STEPS - HALF, callback=AtRollouts(), reset_num_timesteps=False)
    assert_same(weights(loaded.policy), whole)


@pytest.mark.parametrize(("first", "then"), [(torch.optim.AdamW, sr.optim.AdamW), (sr.optim.AdamW, torch.optim.AdamW)])
def test_an_agent_may_change_between_torch_and_ours_at_a_checkpoint(first: Any, then: Any, tmp_path: Path) -> None:
    whole = learn(agent("PPO", first, MAX_NORM), tmp_path / "half.zip")
    other = {"policy_kwargs": agent("PPO", then).policy_kwargs}
    changed = sb3.PPO.load(tmp_path / "half.zip", env=Line(), device="cpu", custom_objects=other)
    assert type(changed.policy.optimizer) is then
    changed.learn(STEPS - HALF, callback=AtRollouts(), reset_num_timesteps=False)
    assert_close(weights(changed.policy), whole)
