"""`sinkquant verify`: does a checkpoint still compute what was measured when it was written?"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from sinkquant.cli.options import Checkpoint, Json, TrustRemoteCode


class RuntimeName(StrEnum):
    """What loads the checkpoint."""

    transformers = "transformers"
    vllm = "vllm"


def verify(
    out: Checkpoint,
    runtime: Annotated[RuntimeName, typer.Option(help="What loads it.")] = RuntimeName.transformers,
    trust_remote_code: TrustRemoteCode = False,
    json: Json = False,
) -> None:
    """Check the files of a checkpoint, load it in a fresh process and compare it with its manifest."""
    from sinkquant.api.verify import verify as api
    from sinkquant.cli.console import say
    from sinkquant.cli.output import print_json

    found = api(out, runtime=runtime.value, trust_remote_code=trust_remote_code)
    if json:
        print_json(found)
        return
    gap = found.difference
    equal = "bit for bit as written" if gap.identical else f"{gap.mean:.1e} apart on average from what was written"
    say(f"{found.files} files have their checksums; {found.runtime} computes {gap.tokens} answers {equal}.")
    if not found.sealed:
        say("The manifest itself has no checksum: the version that wrote it did not make one.")
