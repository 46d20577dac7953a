"""What users would pick today, on the same model, text and scoring.

    python -m eval.peers [--model smollm2|gemma3|stories260k] [--only PEER …] [--again]

Every peer works in an environment of its own, built from PyPI where it is missing. Our evaluator then loads and scores
what it wrote. Rows are saved one by one, failures too; an interrupted run goes on where it stopped.
Results go to eval/results/peers.json and peers.md.
"""
