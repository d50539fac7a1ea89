"""Time a step beside other implementations of it, checked first, interleaved, and recorded with its machine.

Takes: a table of suites, and the installed peers.
Gives: measured cases, one record of all of them, and one picture.
Next door: `lab` (the command); like the lab, this room imports nothing private.
"""
