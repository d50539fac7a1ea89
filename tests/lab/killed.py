"""Kill one run -9 at random moments, so many times; then let it end, beside the same run left alone.

Run as a script: `python tests/lab/killed.py FOLDER TIMES SEED`. Prints JSON. Children are forked, so that none
of them has to import torch again.
"""

import json
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

import torch

from steprule.lab import training
from steprule.lab.budget import Budget
from steprule.lab.checkpoint import Checkpoint
from steprule.lab.clips import Clip
from steprule.lab.files import prepare
from steprule.lab.methods import Method
from steprule.lab.runs import RunSpec
from steprule.lab.tasks import TaskSpec
from steprule.lab.training import made_by, train

METHOD = Method("adamw", clips=(Clip("clip_global_norm", 0.5),), schedule="warmup-cosine")


def spec(iterations):
    budget = Budget(epochs=None, iterations=iterations, accumulate=2, precision="float16")
    return RunSpec(TaskSpec(hidden=(16,)), METHOD, 0.01, 3, budget)


def killed(run, checkpoint, moment, *, after_a_save):
    """Fork a child that goes on with the run, and kill it; return whether it was still at work."""
    before = checkpoint.newest.stat().st_mtime_ns if checkpoint.newest.exists() else 0
    child = os.fork()
    if not child:
        train(run, None, checkpoint)
        os._exit(0)
    while after_a_save and (not checkpoint.newest.exists() or checkpoint.newest.stat().st_mtime_ns == before):
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.001)
    time.sleep(moment)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


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
        at_work += killed(run, checkpoint, draw.uniform(0, 0.06), after_a_save=draw.random() < 0.7)
        state = checkpoint.load()
        done.append(state["done"] if state else 0)
    prepare(folder)  # as every command does: what a killed process was writing is removed
    training.SAVED_EVERY = 10.0
    ended, whole = train(run, None, checkpoint), train(run)
    told = {"at_work": at_work, "done": done, "same": ended == whole, "status": ended.status}
    print(json.dumps(told | {"iterations": ended.iterations, "points": len(ended.curve)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
