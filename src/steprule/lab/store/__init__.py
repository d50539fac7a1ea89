"""The storage of a study: trials in a journal or a database, their owners, and the lock of a folder.

`trials` is the door: a `TrialStore` claims runs and records them. The modules are imported one by one, since a lone
training run needs the lock alone and not Optuna.
"""
