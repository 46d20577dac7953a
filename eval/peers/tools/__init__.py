"""One file a peer: its packages, its settings, and how it quantizes, saves and loads; see `eval.peers.peers`.

A file imports its package only inside functions: the table is written where no peer is installed.
"""

from __future__ import annotations

from types import ModuleType

from eval.peers.tools import autoround, llmcompressor, quanto, torchao

PEERS: dict[str, ModuleType] = {
    "llm-compressor": llmcompressor,
    "torchao": torchao,
    "optimum-quanto": quanto,
    "auto-round": autoround,
}
