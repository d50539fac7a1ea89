"""Plans made runnable: readable kernel source for the CPU, torch operations for everything else.

Takes: a plan and the tensors of one dtype and device.
Gives: a `Batch` that runs the plan's passes on them.
Next door: `plan` (what is run), `optim` (who calls).
"""
