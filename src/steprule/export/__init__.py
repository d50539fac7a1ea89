"""A rule as one file that needs no steprule: torch, Triton or JavaScript."""
