"""Documents of comparisons that never took place: any number of optimisers and tasks, whatever became of the runs."""

import base64
import math
import random
import struct
import zlib

from steprule.lab.report.shape import COLUMNS

NAMES = ("gd", "sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw", "lion", "radam", "adan")
TASKS = ("digits", "digits-cnn", "autoencoder", "cancer", "photograph", "pydocs", "quadratic")
ADAM = [
    r"m_t = \beta_1\, m_{t-1} + (1 - \beta_1)\, g",
    r"s_t = \beta_2\, s_{t-1} + (1 - \beta_2)\, g^{2}",
    r"\theta_t = \theta_{t-1} - \frac{\eta\, m_t}{\sqrt{s_t + \epsilon}}",
]


def picture(shade=0.5, size=24):
    """A PNG of a disc, in base64."""
    middle = (size - 1) / 2
    rows = [
        bytes(int(255 * (shade if math.hypot(x - middle, y - middle) < size / 3 else 0.9)) for x in range(size))
        for y in range(size)
    ]
    raw = zlib.compress(b"".join(b"\0" + row for row in rows))

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", raw) + chunk(b"IEND", b"")
    return base64.b64encode(data).decode()


def _curve(draw, lr, quality, points, every):
    """A falling loss: where the learning rate is too large it flies off."""
    curve = {column: [] for column in COLUMNS}
    speed = quality * lr
    for point in range(points):
        at = point / (points - 1)
        loss = 0.03 + 2.3 * math.exp(-4 * speed * at) * (1 + 0.06 * draw.random())
        if lr > 3:
            loss = 2.3 * math.exp(9 * at)
        row = {
            "iteration": point * every,
            "epoch": point * every / 34,
            "examples": point * every * 32,
            "seconds": 0.001 * point * every * (1 + 0.1 * draw.random()),
            "lr": lr,
            "training_loss": loss,
            "validation_loss": 1.1 * loss,
            "score": max(0.0, 0.98 - 0.38 * min(loss, 2.3)),
            "gradient_norm": 0.1 + loss,
            "clip_coefficient": min(1.0, 1 / (0.1 + loss)),
            "update_ratio": 1e-3 * (0.2 + loss),
        }
        for column, value in row.items():
            curve[column].append(float(f"{value:.5g}") if isinstance(value, float) else value)
    return curve


def run(draw, phase, lr, seed, quality, status="finished", points=30):
    curve = _curve(draw, lr, quality, points, 17)
    if status == "finished" and lr > 3:
        status = "diverged"
    if status == "failed":
        curve = {column: [] for column in COLUMNS}
    scored = phase != "tuning" and status != "failed"
    last = {column: values[-1] if values else None for column, values in curve.items()}
    return {
        "phase": phase,
        "lr": lr,
        "seed": seed,
        "status": status,
        "reason": "" if status == "finished" else "out of memory" if status == "failed" else "loss went from 2 to 9",
        "iterations": last["iteration"] or 0,
        "epochs": last["epoch"] or 0.0,
        "initial_training_loss": 2.3,
        "final_training_loss": last["training_loss"],
        "validation_loss": last["validation_loss"],
        "test_loss": last["validation_loss"] if scored else None,
        "test_score": last["score"] if scored else None,
        "optimizer_us_per_step": 8.0 + draw.random(),
        "state_bytes_per_parameter": 8.0,
        "seconds": 0.6,
        "exhibits": [],
        "curve": curve,
    }


def summary(runs):
    scores = sorted(one["test_score"] for one in runs if one["test_score"] is not None)
    finished = [one for one in runs if one["status"] == "finished"]
    whole = len(finished) * 2 > len(runs)
    return {
        "test_score": {"middle": scores[len(scores) // 2], "low": scores[0], "high": scores[-1]} if scores else None,
        "validation_loss": finished[0]["validation_loss"] if whole else None,
        "to_target": {"iterations": 120, "epochs": 3.5, "examples": 3840, "seconds": 0.12} if whole else None,
        "reached_target": len(finished),
        "runs": len(runs),
        "diverged": sum(one["status"] == "diverged" for one in runs),
        "failed": sum(one["status"] == "failed" for one in runs),
        "optimizer_us_per_step": 8.5 if runs else None,
    }


def result(draw, task, place, lrs, seeds, status):
    quality = 1.0 + 0.55 * place
    tuning = [run(draw, "tuning", lr, 0, quality, status) for lr in lrs]
    kept = lrs[min(len(lrs) - 2, 1 + place % 3)] if len(lrs) > 1 else lrs[0]
    lr = kept if status == "finished" else None
    report = [run(draw, "report", kept, seed, quality) for seed in seeds] if lr else []
    default = [run(draw, "default", 0.1, seed, quality) for seed in seeds] if lr else []
    if report:
        report[0]["exhibits"] = [{"caption": "reconstruction", "png": picture(0.1 + 0.06 * place), "text": None}]
    return {
        "task": task,
        "optimizer": key(place),
        "lr": lr,
        "lr_at_edge": "high" if place == 2 and lr else None,
        "default_lr": 0.1,
        "tuned": summary(report) if report else None,
        "default": summary(default) if default else None,
        "runs": [*tuning, *default, *report],
    }


def key(place):
    return NAMES[place] if place < len(NAMES) else "adam · cosine · clip 1"


def optimizer(place):
    ours = place != 7
    return {
        "key": key(place),
        "name": key(place).split(" ")[0],
        "title": f"The {key(place)} rule",
        "schedule": "cosine" if "cosine" in key(place) else "constant",
        "clips": [{"name": "clip_global_norm", "bound": 1.0}] if "clip" in key(place) else [],
        "hyperparameters": {"betas": [0.9, 0.99], "eps": 1e-8, "amsgrad": False},
        "settings": "betas=(0.9, 0.99)",
        "formula": "θ_t = θ_{t-1} - η g" if ours else None,
        "equations": ADAM if ours else [],
        "latex": "\n".join(ADAM) if ours else None,
        "source": "def kernel(p, g):\n    ..." if ours else None,
        "passes": [{"index": 0}] if ours else [],
        "bytes_per_parameter": 12 + 4 * (place % 4) if ours else None,
        "state_bytes_per_parameter": 4 * (place % 3) if ours else None,
        "backend": "numba_cpu" if ours else None,
    }


def theory(label, factor):
    """A line of theory: the fast one ends at 1e-107, far below any optimiser."""
    return {"label": label, "x": list(range(0, 500, 20)), "y": [2.3 * factor**i for i in range(0, 500, 20)]}


def task(name, place):
    return {
        "name": name,
        "title": f"the {name} task",
        "about": "1,797 real 8×8 images of ten classes",
        "network": "64–64–10 perceptron, ReLU, cross-entropy",
        "parameters": 4810,
        "examples": {"train": 1077, "validation": 360, "test": 360},
        "metric": {"name": "accuracy", "higher": True, "percent": True, "unit": ""},
        "target": 0.9,
        "optimum": 0.02 if name in {"cancer", "quadratic"} else None,
        "theory": [theory("slow", 0.99), theory("fast", 0.6)] if name == "quadratic" else [],
        "budget": {
            "epochs": 30,
            "iterations": None,
            "batch_size": 32,
            "final_full_batch": False,
            "accumulate": 1,
            "precision": "float32",
            "timeout": None,
        },
        "reference": [{"caption": "original", "png": picture(0.0), "text": None}] if place % 2 == 0 else [],
    }


def document(optimizers=3, tasks=1, seeds=5, lrs=7, status="finished", interrupted=False):
    """A whole document; `status` is what became of every tuning run."""
    draw = random.Random(0)
    names = TASKS[:tasks]
    rates = [float(f"{0.001 * 10 ** (5 * place / max(1, lrs - 1)):.3g}") for place in range(lrs)] if lrs > 1 else [0.3]
    fresh = list(range(100, 100 + seeds))
    keys = [key(place) for place in range(optimizers)]
    pairs = [(a, b) for at, a in enumerate(keys) for b in keys[at + 1 :]]
    return {
        "schema": 2,
        "command": "steprule compare --tasks all",
        "started": "2026-01-02T03:04:05+00:00",
        "seconds": 71.5,
        "interrupted": interrupted,
        "complete": not interrupted,
        "versions": {"steprule": "0.1", "torch": "2.13"},
        "hardware": {"processor": "A processor", "cores": 2, "workers": 2, "threads_per_worker": 1},
        "git": {"commit": "0" * 40, "modified": True},
        "protocol": {
            "text": ["Every optimiser tries the same learning rates.", "A run has diverged when a loss is not finite."],
            "grids": dict.fromkeys(names, rates),
            "tuning_seeds": [0],
            "report_seeds": fresh,
            "schedules": ["constant"],
            "clips": [""],
            "budget": None,
        },
        "tasks": [task(name, place) for place, name in enumerate(names)],
        "optimizers": [optimizer(place) for place in range(optimizers)],
        "results": [result(draw, name, place, rates, fresh, status) for name in names for place in range(optimizers)],
        "comparisons": [
            {
                "task": name,
                "phase": "report",
                "a": a,
                "b": b,
                "difference": {"middle": -0.012, "low": -0.02, "high": 0.001},
                "verdict": "worse" if place % 2 else "indistinguishable",
            }
            for name in names
            for place, (a, b) in enumerate(pairs)
        ],
        "verdicts": dict.fromkeys(names, "No winner is named: the intervals overlap."),
        "winner": dict.fromkeys(names),
    }


def unknown(made):
    """The document with every number that may be missing missing."""
    for row in made["results"]:
        row.update(lr=None, lr_at_edge=None, default_lr=None, tuned=None, default=None)
        for one in row["runs"]:
            one.update(dict.fromkeys(("initial_training_loss", "final_training_loss", "validation_loss")))
            one.update(dict.fromkeys(("test_loss", "test_score", "optimizer_us_per_step", "seconds")))
            one["curve"] = {column: [None] * len(values) for column, values in one["curve"].items()}
    for one in made["tasks"]:
        one.update(target=None, optimum=None)
    return made
