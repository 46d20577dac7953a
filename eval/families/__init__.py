"""Every causal family that transformers maps, in a tiny random model, through every recipe: works, refused or broken.

    python -m eval.families [FAMILY …] [--recipes RECIPE …] [--jobs 2] [--fresh]

A model that can be built is built (`configs`, `build`), detected and quantized (`job`), and what was written is loaded
by stock transformers in a process that never imports sinkquant (`stock`). Results of the same code are kept, so that an
interrupted run goes on; `eval/results/families.json` has a row a family and recipe, `families.md` the table.

Random weights say nothing on quality: the error tells right from wrong, and one configuration stands for a family.
"""
