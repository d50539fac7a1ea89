"""Two published optimisers as five-line rules, trained on a small problem; the package is not touched.

AdaBelief: Zhuang et al., "AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients", 2020.
Lion: Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023.

    python examples/five_lines.py
"""

import torch
from torch import nn

from steprule import explain, rule, sign, sqrt


@rule
def adabelief(theta, g, m, s, *, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, t):
    """Adam whose second average is of the gradient's surprise, g − m, not of the gradient."""
    m = beta1 * m + (1 - beta1) * g
    s = beta2 * s + (1 - beta2) * (g - m) ** 2 + eps
    return theta - lr * m / (1 - beta1**t) / (sqrt(s / (1 - beta2**t)) + eps), m, s


@rule
def lion(theta, g, m, *, lr=1e-4, beta1=0.9, beta2=0.99, weight_decay=0.0):
    """Only the sign of a momentum: every parameter moves by lr, one way or the other."""
    update = sign(beta1 * m + (1 - beta1) * g)
    return theta - lr * (update + weight_decay * theta), beta2 * m + (1 - beta2) * g


def train(make_optimizer, steps=300):
    """Fit sin(3x) with a small network and return the loss before and after."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = make_optimizer(model.parameters())
    x = torch.linspace(-1, 1, 128)[:, None]
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), torch.sin(3 * x))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[0], losses[-1]


def main():
    """Show each rule as the compiler reads it, then train with it."""
    for program, lr in ((adabelief, 1e-2), (lion, 3e-3)):
        told = explain(program)
        before, after = train(lambda parameters, program=program, lr=lr: program.optimizer(parameters, lr=lr))
        moved, kept = told.bytes_per_parameter, told.state_bytes_per_parameter
        print(f"{program.name}: {moved} bytes moved and {kept} kept a parameter")
        print(told.formula)
        print(f"loss {before:.4f} -> {after:.4f}\n")


if __name__ == "__main__":
    main()
