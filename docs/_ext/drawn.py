"""Pictures that pages show, drawn while the site is built, for light grounds and for dark ones.

`docs/made/board-light.svg` shows where the board's methods go on a quadratic, in float64, from the same point.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from sphinx.application import Sphinx

import steprule as sr
from steprule.lab.report.style import COLOURS, DASHES

METHODS = {
    "gd": {"lr": 0.06},
    "momentum": {"lr": 0.3},
    "nesterov": {"lr": 0.3},
    "adagrad": {"lr": 0.6},
    "rmsprop": {"lr": 0.08},
    "adam": {"lr": 0.12},
}
"""The methods that are drawn, each with a rate at which its character shows."""
CURVATURE, START, STEPS = np.array([1.0, 25.0]), (-4.0, 1.3), 60
GROUNDS = {"light": ("#1d2430", "#dfe3e8", 0), "dark": ("#e8ebf0", "#323b49", 1)}
"""Of each scheme the ink, the lines of the grid, and which colour of a pair is seen on it."""


def trajectory(name: str) -> Any:
    """Return the points that a method of the board visits on the quadratic, the first included."""
    theta = torch.nn.Parameter(torch.tensor(START, dtype=torch.float64))
    curvature = torch.tensor(CURVATURE)
    optimizer = getattr(sr.board, name).optimizer([theta], backend="eager", **METHODS[name])

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = 0.5 * (curvature * theta**2).sum()
        loss.backward()
        return loss

    found = [theta.detach().clone()]
    for _ in range(STEPS):
        optimizer.step(closure)
        found.append(theta.detach().clone())
    return torch.stack(found).numpy()


def board(ink: str, grid: str, which: int) -> Figure:
    """Draw all trajectories over the contours, and the loss of each beside them."""
    figure = Figure(figsize=(8.6, 3.6))
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    x, y = np.meshgrid(np.linspace(-4.5, 2.2, 121), np.linspace(-1.6, 1.6, 121))
    height = 0.5 * (CURVATURE[0] * x**2 + CURVATURE[1] * y**2)
    left.contour(x, y, height, levels=np.geomspace(0.05, 30, 9), colors=grid, linewidths=0.9)
    for place, name in enumerate(METHODS):
        colour = COLOURS[(place + 1) % len(COLOURS)][which]
        path = trajectory(name)
        loss = 0.5 * (path**2 * CURVATURE).sum(axis=1)
        dash = DASHES[place % len(DASHES)]
        style = {"color": colour, "linestyle": (0, dash) if dash else "-"}
        left.plot(*path.T, **style, linewidth=1.4, marker="o", markersize=1.8)
        right.semilogy(loss, **style, linewidth=1.6, label=name)
    left.plot(*START, marker="o", color=ink, markersize=6)
    left.plot(0, 0, marker="+", color=ink, markersize=10)
    left.set(xlabel="first parameter", ylabel="second parameter, 25 times as steep", xlim=(-4.5, 2.2), ylim=(-1.6, 1.6))
    right.set(xlabel="step", ylabel="loss", ylim=(1e-8, 60))
    right.legend(frameon=False, labelcolor=ink, fontsize=8, handlelength=3, loc="lower left")
    for axes in (left, right):
        axes.tick_params(colors=ink, labelsize=8)
        axes.xaxis.label.set_color(ink)
        axes.yaxis.label.set_color(ink)
        axes.patch.set_alpha(0)
        axes.spines[:].set_color(grid)
    figure.tight_layout()
    return figure


PICTURES: dict[str, Callable[[str, str, int], Figure]] = {"board": board}


def write(folder: Path) -> None:
    """Write every picture, the same bytes each time."""
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "steprule", "svg.fonttype": "path", "font.family": "DejaVu Sans"}):
        for name, draw in PICTURES.items():
            for scheme, look in GROUNDS.items():
                path = folder / f"{name}-{scheme}.svg"
                draw(*look).savefig(path, transparent=True, metadata={"Date": None})


def setup(app: Sphinx) -> dict[str, bool]:
    """Draw before pages are read."""
    app.connect("builder-inited", lambda app: write(Path(app.srcdir) / "made"))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
