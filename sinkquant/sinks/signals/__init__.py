"""Signals of sinks: one small file each, pure functions of tensors."""
