"""The tables that a CPU kernel is given: those of `plan.tables`, and two for steps that threads share.

    done       [part + 2]        set where the last pass has ended, then where it has been wound up, for tensors and for
                                 all of them: an interrupted step is finished from there
    parts      [part + 1]        where each part's chunks begin, and the end of the last

It is given the address of a directory: where each table begins, how many tensors, chunks, rows and parts there are, and
the stage. It reads the stage there so that its arguments are those of torch's parallel loops.
"""

TABLES = ("addresses", "gradients", "tensors", "chunks", "hyper", "host", "partial", "reduced", "total", "done",
          "parts")  # fmt: skip
COUNTS = ("tensor_count", "chunk_count", "row_count", "part_count")
INTEGERS = {"addresses", "gradients", "tensors", "chunks", "done", "parts"}
ALL = ", ".join(TABLES[:-2])
