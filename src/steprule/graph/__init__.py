"""The formula as data: one node type, the op table, the verifier, simplification, meaning, print.

Takes: nothing but itself; it knows neither tensors nor devices.
Gives: `Graph`, which `rule` builds, `plan` cuts into passes, and `evaluate` defines.
Next door: `rule` (who fills graphs), `plan` (who reads them).
"""
