"""Kill one run -9 at random lines, so many times; then let it end, beside the same run left alone.

Run as a script: `python tests/lab/killed.py FOLDER TIMES SEED`. Prints JSON. Children are forked, so that none
of them has to import torch again.
"""

import json
import random
import signal
import sys
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from child import at_line, die, ended, fork
from steprule.console.files import prepare
from steprule.lab import training
from steprule.lab.budget import Budget
from steprule.lab.checkpoint import Checkpoint
from steprule.lab.clips import Clip
from steprule.lab.methods import Method
from steprule.lab.runs import RunSpec
from steprule.lab.tasks import TaskSpec
from steprule.lab.training import made_by, train

LAB = str(Path(training.__file__).parent)

METHOD = Method("adamw", clips=(Clip("clip_global_norm", 0.5),), schedule="warmup-cosine")


def spec(iterations):
    budget = Budget(epochs=None, iterations=iterations, accumulate=2, precision="float16")
    return RunSpec(TaskSpec(hidden=(16,)), METHOD, 0.01, 3, budget)


def go_on(run, checkpoint, line):
    """Go on with the run, and be killed before so many lines of the lab have run."""
    at_line(line, LAB, die)
    train(run, None, checkpoint)


def main(folder, times, seed):
    torch.set_num_threads(1)
    warnings.simplefilter("error")  # a damaged checkpoint is warned of
    draw = random.Random(seed)
    train(spec(3))  # compiles what every child needs
    run = spec(40 * times + 400)
    checkpoint = Checkpoint(folder, made_by(run))
    training.SAVED_EVERY = 0.0  # after every iteration
    at_work, done = 0, [0]
    for _ in range(times):
        at_work += ended(fork(go_on, run, checkpoint, draw.randrange(4000))) == -signal.SIGKILL
        state = checkpoint.load()
        done.append(state["done"] if state else 0)
    prepare(folder)  # as every command does: what a killed process was writing is removed
    training.SAVED_EVERY = 10.0
    last, whole = train(run, None, checkpoint), train(run)
    told = {"at_work": at_work, "done": done, "same": last == whole, "status": last.status}
    print(json.dumps(told | {"iterations": last.iterations, "points": len(last.curve)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
