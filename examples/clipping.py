"""The board's two clippings and their usual forms, on a regression whose data hold a few wild outliers.

Clipping stands in front of any rule and runs in the same kernel; no gradient is modified. The board's second
clipping bounds from above only: large negative components pass, and the parameters drift.

    python examples/clipping.py
"""

import torch
from torch import nn

import steprule as sr

CLIPPINGS = {
    "none": None,
    "board.clip_norm": sr.board.clip_norm(max_norm=1.0),
    "board.clip_component": sr.board.clip_component(limit=1.0),
    "clip_global_norm": sr.clip_global_norm(max_norm=1.0),
    "clip_value": sr.clip_value(limit=1.0),
    "value, then norm": [sr.clip_value(limit=1.0), sr.clip_global_norm(max_norm=1.0)],
}


def data():
    """Return a linear problem; one target in a hundred is off by a thousand."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 8, generator=generator)
    y = x @ torch.arange(1.0, 9.0)[:, None]
    wild = torch.rand(2000, 1, generator=generator) < 0.01
    return x, y, torch.where(wild, y + 1000.0, y)


def train(clip, steps=2000):
    """Fit the noisy targets in mini-batches, and return the root mean square error on the true ones."""
    x, true, noisy = data()
    torch.manual_seed(0)
    model = nn.Linear(8, 1)
    transforms = clip if isinstance(clip, list) else [clip] if clip is not None else []
    program = sr.chain(*transforms, sr.board.momentum(lr=0.02))
    optimizer = sr.Optimizer(model.parameters(), program)
    for _ in range(steps):
        batch = torch.randint(len(x), (16,))
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x[batch]), noisy[batch]).backward()
        optimizer.step()
    with torch.no_grad():
        return nn.functional.mse_loss(model(x), true).sqrt().item(), sr.explain(program)


def main():
    """Print one line a clipping: the error, and what the clipping costs in memory traffic."""
    for name, clip in CLIPPINGS.items():
        error, told = train(clip)
        passes = f"{len(told.passes)} pass{'es' * (len(told.passes) > 1)}"
        print(f"{name:21} error {error:6.2f}   {passes}, {told.bytes_per_parameter} bytes a parameter")


if __name__ == "__main__":
    main()
