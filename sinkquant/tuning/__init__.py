"""Fit what scales and shifts the codes to the full-precision model, once the codes are chosen."""
