"""Embedding and head, on both ends of the blocks, to 8 bits."""

from __future__ import annotations

from sinkquant.flow.plan import Plan
from sinkquant.flow.session import Session
from sinkquant.quantization.scheme import LinearScheme, WeightScheme
from sinkquant.quantization.weights import round_to_nearest
from sinkquant.runtime.embedding import SCHEME, QuantizedEmbedding
from sinkquant.runtime.linear import QuantizedLinear
from sinkquant.runtime.modules import replace_module
from sinkquant.transforms.norms import untie


def quantize_ends(session: Session, plan: Plan) -> None:
    """Round them where the plan says so."""
    model, roles = session.model, session.roles
    head_bits = plan.bits.get(roles.head, 16) if roles.head is not None else 16
    embedding_bits = plan.bits[roles.embedding] if roles.embedding is not None else 16
    if head_bits == 16 and embedding_bits == 16:
        return
    if getattr(model.config, "tie_word_embeddings", False):
        untie(model, roles)
    if head_bits < 16 and roles.head is not None:
        head, scheme = model.get_submodule(roles.head), WeightScheme(head_bits)
        codes = round_to_nearest(head.weight, scheme, search=True)
        replace_module(model, roles.head, QuantizedLinear.from_linear(head, LinearScheme(scheme), codes))
    if embedding_bits < 16 and roles.embedding is not None:
        table = model.get_submodule(roles.embedding)
        codes = round_to_nearest(table.weight, SCHEME, search=True)
        replace_module(model, roles.embedding, QuantizedEmbedding.from_embedding(table, codes))
