"""The rules themselves: the whiteboard, then one file a family.

Takes: the language.
Gives: rules and transforms under their names.
Next door: `rule` (the language), `lab` (who compares them).
"""
