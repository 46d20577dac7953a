"""Images go in; a class, or features, come out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sinkquant.inputs.batches import Batch
from sinkquant.inputs.images import Images, image_batches, read_images
from sinkquant.inputs.sources import INPUTS, SELF
from sinkquant.models.stubs import call_model
from sinkquant.tasks.parts import PROVES, portions
from sinkquant.tasks.task import Ask, Data, Task

if TYPE_CHECKING:
    from sinkquant.models.roles import Roles, Stack
    from sinkquant.models.source import Source

PIXELS, TOWER = "pixel_values", "get_image_features"
AT_ONCE = 16  # images of a batch


class _Images(Task):
    counts = "images"

    def processor(self, source: Source) -> Any:
        """What resizes and scales an image."""
        from sinkquant.models.load import load_processor

        return load_processor(source, "AutoImageProcessor")

    def probe(self, model: Any, samples: int = 1) -> Batch:
        """Waves of different directions and lengths in every channel."""
        config = getattr(model.config, "vision_config", model.config)
        height, width = _pair(getattr(config, "image_size", 224))
        channels = int(getattr(config, "num_channels", 3))
        y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
        waves = [torch.sin((3 + 2 * k) * x + (5 + 3 * k) * y + k) for k in range(samples * channels)]
        pixels = torch.stack(waves).reshape(samples, channels, height, width)
        return Batch({PIXELS: pixels}, method=self.method(model))

    def read(self, ask: Ask, processor: Any, model: Any, roles: Roles) -> Data:
        """Images of every class in turn; as many as have the tokens that were asked for, at `UNKNOWN` patches each."""
        source = None if ask.source is None or ask.source == SELF or ask.source in INPUTS else ask.source
        wanted, spare = portions(ask)
        images = self._labelled(read_images(source, count=wanted + spare, seed=ask.seed, column=ask.column), model)
        batches = image_batches(images, processor, AT_ONCE)
        batches = replace(batches, items=tuple(replace(batch, method=self.method(model)) for batch in batches))
        found = batches.samples
        if found < wanted + spare:
            spare = min(spare, found // PROVES)
        notes = (f"calibration images from {images.said}",)
        if not spare:
            return Data(batches, batches, notes)
        return Data(batches.part(0, found - spare), batches.part(found - spare), notes)

    def method(self, model: Any) -> str | None:
        """What of the model takes images: None for the whole."""
        return None

    def _labelled(self, images: Images, model: Any) -> Images:
        """The images with the classes of the model, where it has any."""
        return images

    def place(self, model: Any, stack: Stack, index: int, rows: int) -> str:
        """A patch by row and column; what stands in front of the patches is CLS and its like."""
        config = getattr(model.config, "vision_config", model.config)
        (height, width), (down, across) = (
            _pair(getattr(config, "image_size", 0)),
            _pair(getattr(config, "patch_size", 1)),
        )
        columns = width // across
        front = rows - height // down * columns
        if front < 0 or not columns:
            return f"place {index}"
        if index < front:
            return "CLS" if index == 0 else f"extra token {index}"
        return f"patch ({(index - front) // columns}, {(index - front) % columns})"


class ImageClassification(_Images):
    """A choice of a class for every image."""

    name = "image-classification"
    words = "image classifier"
    auto = "AutoModelForImageClassification"
    metrics = ("kl", "accuracy", "agreement")

    def answer(self, model: Any, batch: Batch) -> Tensor:
        """Logits (N, classes)."""
        return _outputs(model, batch).logits.float()

    def _labelled(self, images: Images, model: Any) -> Images:
        return images.in_model(model.config)


class ImageFeatures(_Images):
    """A vector for every image: what the model pools, else its first token, else the mean of all.

    Of a model with a tower for images beside others, that tower is asked, and the others stay as they are.
    """

    name = "image-features"
    words = "image encoder"
    auto = "AutoModel"
    metrics = ("cosine", "low_cosine", "neighbours")
    answers_are = "features"

    def takes(self, config: Any) -> bool:
        """Models that see images; the base class of a family says nothing else."""
        return any(hasattr(config, name) for name in ("image_size", "vision_config"))

    def method(self, model: Any) -> str | None:
        """What transformers calls it for all models of several towers."""
        return TOWER if hasattr(model, TOWER) else None

    def answer(self, model: Any, batch: Batch) -> Tensor:
        """(N, D)."""
        outputs = _outputs(model, batch)
        pooled = getattr(outputs, "pooler_output", None)
        if pooled is not None:
            return pooled.flatten(1).float()
        states = outputs.last_hidden_state
        if states.dim() == 4:  # maps of convolutions
            return states.mean((2, 3)).float()
        return states[:, 0].float()


def _outputs(model: Any, batch: Batch) -> Any:
    with torch.no_grad():
        return call_model(model, batch)


def _pair(size: Any) -> tuple[int, int]:
    if isinstance(size, list | tuple):
        return int(size[0]), int(size[-1])
    return int(size), int(size)


IMAGE_CLASSIFICATION, IMAGE_FEATURES = ImageClassification(), ImageFeatures()
