"""Passes over memory: which arrays each reads and writes, and which reductions it ends in.

Takes: a simplified graph.
Gives: a `Plan`, the fewest passes in order, with their bytes and flops.
Next door: `graph` (what is planned), `backends` (who runs it).
"""
