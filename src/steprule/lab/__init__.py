"""Takes the public face only; gives tasks, fair comparisons, a report and the command line.

Next door: nothing below imports this room, and it imports nothing private.
"""
