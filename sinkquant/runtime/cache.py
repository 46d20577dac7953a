"""A transformers cache that keeps keys and values packed."""

from __future__ import annotations

from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.modeling_utils import PreTrainedModel

from sinkquant.errors import SinkquantError, UsageError
from sinkquant.models.attention import NAME, TAPS
from sinkquant.quantization.scheme import KVScheme
from sinkquant.runtime.cache_layer import SinkLayer
from sinkquant.runtime.cached import STAGE
from sinkquant.runtime.kv import KVStage


class SinkCache(Cache):
    """The cache of a model with quantized keys and values: `model.generate(…, past_key_values=SinkCache(model))`.

    Layers that are not quantized keep the cache that transformers gives them. Raises UsageError for an encoder-decoder
    and if no layer is quantized, SinkquantError if a quantized layer needs more than keys and values of its own.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        if getattr(model.config, "is_encoder_decoder", False):
            raise UsageError(
                "the keys of an encoder-decoder's two caches are read where they are kept, which packed ones do not "
                "allow: leave out the cache, keys and values are rounded all the same."
            )
        layers = DynamicCache(config=model.config).layers
        schemes: dict[int, KVScheme] = {
            module.layer_idx: stage.scheme  # type: ignore[misc]
            for module in model.modules()
            for stage in getattr(module, TAPS, ())
            if isinstance(stage, KVStage) and stage.scheme.bits < 16
        }
        through_ours = bool(schemes)
        stages = [getattr(module, STAGE) for module in model.modules() if hasattr(module, STAGE)]
        schemes |= {stage.cached.layer: stage.scheme for stage in stages}
        if not schemes:
            raise UsageError("the model has no quantized keys and values: leave out the cache, transformers makes one.")
        if through_ours and model.config.get_text_config(decoder=True)._attn_implementation != NAME:
            raise UsageError(f"the model runs without its stages: call model.set_attn_implementation({NAME!r}) first.")
        layers += [DynamicLayer() for _ in range(len(layers), max(schemes) + 1)]  # a configuration may not count them
        for index, scheme in schemes.items():
            layers[index] = packed_layer(layers[index], scheme)  # type: ignore[index]
        super().__init__(layers=layers)

    @property
    def nbytes(self) -> int:
        """Bytes of everything that is stored."""
        plain = (x for layer in self.layers for x in (layer.keys, layer.values) if isinstance(x, Tensor))  # type: ignore[union-attr]
        return sum(x.nbytes for x in plain) + sum(x.nbytes for x in self.layers if isinstance(x, SinkLayer))


def packed_layer(layer: object, scheme: KVScheme) -> SinkLayer:
    """The packed counterpart of a layer that transformers made."""
    if type(layer) is DynamicLayer:
        return SinkLayer(scheme)
    if type(layer) is DynamicSlidingWindowLayer:
        return SinkLayer(scheme, layer.sliding_window)
    raise SinkquantError(f"a {type(layer).__name__} cannot be packed: leave out the cache, transformers makes one.")
