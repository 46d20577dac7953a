"""The transformers quantizer of sink-aware checkpoints: `from_pretrained` finds it through `quant_method`.

It is registered while transformers is still being imported, so what needs transformers' models is imported at use.
"""

from __future__ import annotations

from typing import Any

from transformers.quantizers.base import HfQuantizer


class SinkquantQuantizer(HfQuantizer):
    """Builds the quantized modules before the weights are loaded; the tensors then load as they are stored."""

    requires_calibration = True

    def update_attn_implementation(self, config: Any) -> Any:
        """Keys and values go through our attention function, whatever was asked for; if the model's ever do."""
        from sinkquant.models import attention

        if not self.quantization_config.attentions:  # type: ignore[attr-defined]
            return config
        attention.register()
        config._attn_implementation = attention.NAME
        return config

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        from sinkquant.models.seal import KEY, OWN, refuse_other_files
        from sinkquant.runtime.loaded import set_filling
        from sinkquant.runtime.modules import skeleton

        refuse_other_files(kwargs.get("checkpoint_files") or ())
        (getattr(model.config, KEY, None) or {}).pop(OWN, None)  # what is saved from this model has no manifest
        skeleton(model, self.quantization_config)  # type: ignore[arg-type]
        held = self.quantization_config.apart  # type: ignore[attr-defined]
        set_filling(model, True, held)
        return model

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        from sinkquant.runtime.loaded import check_arrived, check_stored, set_filling

        held = self.quantization_config.apart  # type: ignore[attr-defined]
        set_filling(model, False)
        if not hasattr(model, "_hf_hook"):  # modules that are spread over devices and disk have got copies
            check_arrived(model, held)
        check_stored(model, held)
        return model

    def update_weight_conversions(self, weight_conversions: Any, model: Any) -> Any:
        """Experts that were taken apart are not merged: names change at most."""
        from sinkquant.models.merged import names_apart

        config: Any = self.quantization_config
        if not config.experts:
            return super().update_weight_conversions(weight_conversions, model)
        return [] if config.hub_names is None else names_apart(weight_conversions)

    def get_state_dict_and_metadata(self, model: Any) -> Any:
        """What `save_pretrained` writes: names on disk are those that were loaded."""
        from sinkquant.models.merged import stored_names

        config: Any = self.quantization_config
        if not config.experts or config.hub_names is None:
            return super().get_state_dict_and_metadata(model)
        name = stored_names(model)
        return {name(own): tensor for own, tensor in model.state_dict().items()}, {}

    def is_serializable(self) -> bool:
        """`save_pretrained` writes an equal checkpoint."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Rounding has no gradient."""
        return False
