"""Takes the public face only; gives tasks, fair comparisons, a report and the command line.

Next door: nothing below imports this room, and it imports nothing private.
"""

from steprule.lab.data import Data, Split
from steprule.lab.tasks import Exhibit, Metric, Task

__all__ = ["Data", "Exhibit", "Metric", "Split", "Task"]
