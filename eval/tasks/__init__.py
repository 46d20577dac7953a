"""What recipes do to real models of every task: the float model, plain static rounding and results in one run.

    python -m eval.tasks [embedding …] [--only SETTING …]

A file a task (`embedding.py`): it has `SUBJECTS`, each a `Subject` with what it is calibrated and measured on, its
settings and its goals, and nothing else; `NAMES` in `__main__.py` lists the files. `measure.py` quantizes a subject by
each setting in a fresh process and lets `sinkquant.evaluate` compare; figures that the task's metrics do not have come
from the subject's `more(folder of the result, its baseline)`. Rows are kept in `eval/results/tasks.json` at once, one a
subject and setting, and those that are there already are not measured again; `table.py` makes `tasks.md` of them all.
"""
