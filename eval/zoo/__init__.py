"""Families of every task but text generation, in a tiny random model with a spike planted: what becomes of each.

    python -m eval.zoo [TASK …] [--families FAMILY …] [--jobs 1] [--fresh]

A family is built from the configuration that transformers maps for the task (`configs`, `build`), detected, and taken
through the recipes: quantize, load, evaluate, inspect, verify (`job`). `eval/results/zoo.json` has a row a task, family
and step, `zoo.md` the table.

Random weights say nothing on quality: the error tells right from wrong, and one configuration stands for a family.
"""
