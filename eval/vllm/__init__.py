"""Checks of the vLLM plug-in against our own runtime, in an environment of its own.

    python -m eval.vllm ENVIRONMENT --model FOLDER --calibration FILE --text FILE --work FOLDER

ENVIRONMENT and the checkpoints in `--work` are made where they are missing and used again where they are there.
Results go to eval/results/vllm.json and vllm.md.
"""
