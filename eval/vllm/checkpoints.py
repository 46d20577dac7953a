"""The checkpoints that are served."""

from __future__ import annotations

from pathlib import Path

import sinkquant

NAIVE = ["sinks.prefix=none", "sinks.exclude=false"] + [
    f"transforms.{name}=false" for name in ("fold_norms", "r1", "r2", "r3", "r4")
]
EXACT = ["weights.limit=63"]  # also on CPUs whose int8 kernels overflow
UNROUTED = ["activations.route=null"]  # routed tokens and torch.compile exclude each other
QUICK = ["effort=fast"]  # the best codes are not needed to compare runtimes
RECIPES = {
    "float": ("kv4", ["kv_cache.bits=16", "kv_cache.balance=false"]),
    "static": ("w8a8-static", EXACT + UNROUTED),
    "naive": ("w8a8-static", EXACT + UNROUTED + NAIVE),
    "kv4": ("kv4", []),
    "portable": ("w8a8", EXACT),
    "routed": ("w8a8-static", EXACT),
    "w4a8kv4": ("w4a8kv4", QUICK),
    "w4a4kv4": ("w4a4kv4", QUICK),
}


def make(model: Path, calibration: Path, work: Path) -> dict[str, Path]:
    """The folder of every checkpoint; those that exist are kept."""
    small = ["calibration.sequences=4", "calibration.length=512", f"calibration.source={calibration}"]
    folders = {name: work / name for name in RECIPES}
    for name, (recipe, settings) in RECIPES.items():
        if not folders[name].exists():
            sinkquant.quantize(model, recipe=recipe, output=folders[name], overrides=settings + small)
    return folders
