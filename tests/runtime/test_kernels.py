"""Every kernel against float64, and the choice between them."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from safetensors import safe_open
from torch import Tensor, nn

from sinkquant.models.media import Media, MediaRows
from sinkquant.quantization.grid import Grid
from sinkquant.quantization.scheme import ActivationScheme, LinearScheme, WeightScheme
from sinkquant.quantization.weights import QuantizedWeight, round_to_nearest
from sinkquant.runtime.kernels.base import Kernel
from sinkquant.runtime.kernels.choose import Chooser
from sinkquant.runtime.kernels.digits import DigitsKernel, two_digits
from sinkquant.runtime.kernels.int4 import Int4Kernel, cpu_block, from_blocks, to_blocks
from sinkquant.runtime.kernels.int8 import Int8Kernel
from sinkquant.runtime.kernels.int8pack import Int8PackKernel
from sinkquant.runtime.kernels.onednn import OneDnnKernel, product
from sinkquant.runtime.kernels.processor import fit_narrow_sums, narrow_sums
from sinkquant.runtime.kernels.samples import random_layer
from sinkquant.runtime.kernels.selection import Selection
from sinkquant.runtime.kernels.use import use_kernels
from sinkquant.runtime.linear import QuantizedLinear
from sinkquant.runtime.shared import SharedInputs

CPU = torch.device("cpu")
FLOAT_ERROR = {torch.float32: 1e-6, torch.bfloat16: 2.5e-3, torch.float16: 4e-4}

STATIC, DYNAMIC = ActivationScheme(8, "static"), ActivationScheme(8, "dynamic")
INTEGER = [
    LinearScheme(WeightScheme(8), STATIC),
    LinearScheme(WeightScheme(8), ActivationScheme(8, "static", symmetric=False)),
    LinearScheme(WeightScheme(8), ActivationScheme(8, "static", media=True)),
    LinearScheme(WeightScheme(8), ActivationScheme(8, "static", symmetric=False, media=True)),
    LinearScheme(WeightScheme(8), DYNAMIC),
    LinearScheme(WeightScheme(8), ActivationScheme(8, "dynamic", symmetric=False)),
    LinearScheme(WeightScheme(4), STATIC),
    LinearScheme(WeightScheme(4), ActivationScheme(4, "dynamic", clip=0.8)),
]
SHAPES = [(1, 64, 96), (3, 40, 56), (33, 576, 192), (130, 17, 24)]


def fresh(scheme: LinearScheme, out: int, width: int, *, bias: bool) -> QuantizedLinear:
    """A layer whose codes are new in every run and reach both ends of the grid."""
    assert scheme.weight is not None
    grid, groups = scheme.weight.grid, width // (scheme.weight.group_size or width)
    codes = torch.randint(grid.low, grid.high + 1, (out, width), dtype=torch.int8)
    zero = None if scheme.weight.symmetric else torch.randint(grid.low, grid.high + 1, (out, groups), dtype=torch.int8)
    weight = QuantizedWeight(codes, torch.rand(out, groups) * 0.02 + 1e-3, zero)
    module = nn.Linear(width, out, bias=bias)
    steps = 2 ** (scheme.activation.bits - 1) if scheme.activation else 128
    ranges = scheme.activation.ranges if scheme.activation else 1
    limits = torch.rand(ranges) / steps * 3 + 1 / steps, torch.randint(-steps // 2, steps // 2, (ranges,)).float()
    layer = QuantizedLinear.from_linear(module, scheme, weight, limits)
    layer.media = EverySecond()
    return layer


class EverySecond(MediaRows):
    """Every second row stands for an image."""

    def __init__(self) -> None:
        super().__init__(Media("", "", ()))

    def kinds(self, x: Tensor) -> Tensor:
        return torch.arange(len(x))[:, None] % 2


def unaligned(x: Tensor) -> Tensor:
    """The same numbers at addresses that vectors do not begin at."""
    moved = torch.empty(x.numel() + 1, dtype=x.dtype)[1:].reshape(x.shape)
    return moved.copy_(x)


def weight64(layer: QuantizedLinear) -> Tensor:
    weight = layer.quantized_weight()
    codes = weight.codes.double().reshape(layer.out_features, weight.scale.shape[1], -1)
    zero = 0 if weight.zero is None else weight.zero.double()[..., None]
    return ((codes - zero) * weight.scale.double()[..., None]).reshape(layer.out_features, layer.in_features)


def error(y: Tensor, inputs: Tensor, layer: QuantizedLinear) -> float:
    expected = inputs @ weight64(layer).T + (0 if layer.bias is None else layer.bias.double())
    return float((y.double() - expected).norm() / expected.norm())


def input64(layer: QuantizedLinear, x: Tensor) -> Tensor:
    """The rounded input in float64; the division that decides a code is done in the dtype of `x`."""
    scheme = layer.scheme.activation
    assert scheme is not None
    if scheme.mode == "static":
        kinds = torch.arange(len(x))[:, None] % scheme.ranges
        scale, zero = layer.input_scale.to(x.dtype)[kinds], layer._buffers.get("input_zero_point")
        offset = torch.zeros(1) if zero is None else zero[kinds]
    elif scheme.symmetric:
        scale = x.abs().amax(-1, keepdim=True) * scheme.clip * 2 / (2**scheme.bits - 1)
        offset = torch.zeros(1)
    else:
        low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
        scale = (high - low) / (2**scheme.bits - 1)
        offset = (-(2 ** (scheme.bits - 1)) - low / scale).round()
    half = 2 ** (scheme.bits - 1)
    codes = (x / scale + offset.to(x.dtype)).round().clamp(-half, half - 1).double()
    return (codes - offset.double()) * scale.double()


@pytest.mark.parametrize("dtype", FLOAT_ERROR, ids=str)
@pytest.mark.parametrize("scheme", INTEGER, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_int8(scheme: LinearScheme, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    seed = torch.seed()
    rows, out, width = shape
    layer = fresh(scheme, out, width, bias=rows % 2 == 1)
    layer.use(Selection.always(Int8Kernel()), dtype)
    x = torch.randn(rows, width).to(dtype)
    found = error(layer(x), input64(layer, x), layer)
    assert found < FLOAT_ERROR[dtype], f"seed {seed}"


@pytest.mark.parametrize("dtype", FLOAT_ERROR, ids=str)
@pytest.mark.parametrize("scheme", INTEGER, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_onednn(scheme: LinearScheme, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    seed = torch.seed()
    rows, out, width = shape
    assert scheme.weight is not None
    scheme = replace(scheme, weight=replace(scheme.weight, limit=63 if scheme.weight.bits == 8 else None))
    layer = fresh(scheme, out, width, bias=rows % 2 == 1)
    layer.use(Selection.always(OneDnnKernel()), dtype)
    x = torch.randn(rows, width).to(dtype)
    assert error(layer(x), input64(layer, x), layer) < FLOAT_ERROR[dtype], f"seed {seed}"


def test_narrow_weights_do_not_saturate() -> None:
    inputs = torch.full((32, 128), 255, dtype=torch.uint8)
    for code in (-64, 64):
        y = product(inputs, torch.full((32, 128), code, dtype=torch.int8), torch.ones(32))
        assert torch.equal(y, torch.full((32, 32), 127.0 * code * 128))
    assert fit_narrow_sums(Grid(8, limit=64))
    assert not fit_narrow_sums(Grid(8, limit=65))


@pytest.mark.parametrize("dtype", FLOAT_ERROR, ids=str)
@pytest.mark.parametrize("scheme", [*INTEGER[:4], LinearScheme(WeightScheme(8))], ids=str)
@pytest.mark.parametrize("shape", [(1, 64, 96), (3, 40, 48), (33, 575, 192), (130, 17, 16)], ids=str)
def test_int8pack(scheme: LinearScheme, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    seed = torch.seed()
    rows, out, width = shape
    layer = fresh(scheme, out, width, bias=rows % 2 == 1)
    layer.weight = unaligned(layer.weight)
    layer.use(Selection.always(Int8PackKernel()), dtype)
    x = torch.randn(rows, width).to(dtype)
    exact = x.double() if scheme.activation is None else input64(layer, x)
    for found in (layer(x), layer(unaligned(x))):
        assert error(found, exact, layer) < 4e-3, f"seed {seed}"


def test_what_saturates_here_is_not_chosen() -> None:
    wide, narrow = (LinearScheme(WeightScheme(8, limit=limit), STATIC) for limit in (None, 63))
    saturates = narrow_sums(CPU)
    assert not OneDnnKernel().suits(wide, 64, 64, CPU)
    assert OneDnnKernel().suits(narrow, 64, 64, CPU) == saturates
    assert Int8Kernel().suits(wide, 64, 64, CPU) != saturates


@pytest.mark.parametrize("dtype", FLOAT_ERROR, ids=str)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", [32, 64, 128, 256])
@pytest.mark.parametrize("rows", [1, 5, 70])
def test_int4(rows: int, group: int, symmetric: bool, dtype: torch.dtype) -> None:
    if cpu_block() is None:
        pytest.skip("torch has no 4-bit kernel for this CPU")
    seed = torch.seed()
    scheme, out, width = LinearScheme(WeightScheme(4, symmetric, group)), 192, 512
    layer = fresh(scheme, out, width, bias=rows == 5)
    expected_weight = weight64(layer)
    layer.use(Selection.always(Int4Kernel()), dtype)
    assert torch.equal(weight64(layer), expected_weight)
    x = torch.randn(2, rows, width).to(dtype)
    assert error(layer(x), x.double(), layer) < 8e-3, f"seed {seed}"


@pytest.mark.parametrize("shape", [(1, 64, 96), (5, 40, 57), (70, 300, 576)], ids=str)
@pytest.mark.parametrize("dtype", FLOAT_ERROR, ids=str)
def test_digits(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    seed = torch.seed()
    rows, out, width = shape
    layer = fresh(LinearScheme(WeightScheme(8)), out, width, bias=True)
    layer.use(Selection.always(DigitsKernel()), dtype)
    x = torch.randn(rows, width).to(dtype)
    assert error(layer(x), x.double(), layer) < max(2e-4, FLOAT_ERROR[dtype]), f"seed {seed}"


def test_digits_are_within_bounds() -> None:
    x = torch.randn(50, 64) * torch.logspace(-30, 30, 50)[:, None]
    x[7] = 0
    scale, high, low = two_digits(x)
    assert high.abs().max() <= 127
    assert low.abs().max() <= 64
    assert ((128 * high + low) * scale - x).abs().le(0.501 * scale).all()


def test_blocks_hold_every_code() -> None:
    if cpu_block() is None:
        pytest.skip("torch has no 4-bit kernel for this CPU")
    codes = torch.randint(-8, 8, (256, 64), dtype=torch.int8)
    block = cpu_block()
    assert block is not None
    packed = to_blocks(pack_to_int32(codes, 4), block)
    assert torch.equal(packed, torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.to(torch.int32) + 8, 1))
    assert torch.equal(from_blocks(packed, block), codes)


@pytest.mark.parametrize(
    ("kernel", "scheme", "out"),
    [
        (Int8Kernel(), LinearScheme(WeightScheme(8, symmetric=False), STATIC), 64),
        (Int8Kernel(), LinearScheme(WeightScheme(4, group_size=32), STATIC), 64),
        (Int8Kernel(), LinearScheme(None, STATIC), 64),
        (Int4Kernel(), LinearScheme(WeightScheme(4, group_size=16)), 64),
        (Int4Kernel(), LinearScheme(WeightScheme(4, group_size=32), STATIC), 64),
        (Int4Kernel(), LinearScheme(WeightScheme(4, group_size=32)), 40),
        (DigitsKernel(), LinearScheme(WeightScheme(8, group_size=32)), 64),
        (DigitsKernel(), LinearScheme(WeightScheme(8), STATIC), 64),
        (Int8PackKernel(), LinearScheme(WeightScheme(8, symmetric=False), STATIC), 64),
        (Int8PackKernel(), LinearScheme(WeightScheme(4), STATIC), 64),
    ],
)
def test_what_a_kernel_cannot_do_is_not_its(kernel: Kernel, scheme: LinearScheme, out: int) -> None:
    assert not kernel.suits(scheme, out, 128, CPU)


@pytest.mark.parametrize("inputs", [None, STATIC], ids=str)
def test_rows_of_broken_vectors_are_not_for_int8pack(inputs: ActivationScheme | None) -> None:
    suits = [Int8PackKernel().suits(LinearScheme(WeightScheme(8), inputs), 64, width, CPU) for width in (56, 64)]
    assert suits == [False, narrow_sums(CPU)]


class Odd(Int8Kernel):
    """The integer kernel, made wrong or slow."""

    def __init__(self, factor: float, sleep: float) -> None:
        self.factor, self.sleep = factor, sleep

    def suits(self, *facts: object) -> bool:
        return True

    def __call__(self, layer: QuantizedLinear, x: Tensor) -> Tensor:
        time.sleep(self.sleep)
        return super().__call__(layer, x) * self.factor


class Recording(Odd):
    """Keeps the sizes of the layers it is tried on, and computes none."""

    def __init__(self) -> None:
        super().__init__(1.0, 0.0)
        self.sizes: list[tuple[int, int]] = []

    def prepare(self, layer: QuantizedLinear, dtype: torch.dtype) -> None:
        self.sizes.append((layer.out_features, layer.in_features))
        raise RuntimeError


def test_a_wrong_or_slow_kernel_is_not_chosen() -> None:
    scheme = LinearScheme(WeightScheme(8), STATIC)
    layer = random_layer(scheme, 64, 64)
    assert Chooser([Odd(1.001, 0.0)]).choose([layer], torch.float32) is None
    assert Chooser([Odd(1.0, 0.2)]).choose([layer], torch.float32) is None


def test_a_choice_is_made_once_for_all_layers_of_a_size() -> None:
    kernel = Recording()
    chooser = Chooser([kernel])
    for scheme in (STATIC, ActivationScheme(8, "static", route=2.0)):
        layers = [random_layer(LinearScheme(WeightScheme(8), scheme), out, 96) for out in (64, 32)]
        assert chooser.choose(layers, torch.float32) is None
    assert kernel.sizes == [(96, 96)]


def test_siblings_are_tried_together_where_a_kernel_suits_each() -> None:
    class Picky(Recording):
        def suits(self, scheme: LinearScheme, out_features: int, *facts: object) -> bool:
            return out_features % 64 == 0

    kernel = Picky()
    siblings = [random_layer(LinearScheme(WeightScheme(8), STATIC), out, 64) for out in (96, 64, 32, 128, 256)]
    siblings[-1].scheme = replace(siblings[-1].scheme, rotate=True)
    use_kernels(nn.ModuleList(siblings), Chooser([kernel]))
    assert kernel.sizes == [(64 + 128, 64), (256, 64)]


def test_one_layer_is_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Odd(1.0, 0.0)
    monkeypatch.setattr(Chooser, "choose", lambda *_: Selection.always(kernel))
    layer = use_kernels(random_layer(LinearScheme(WeightScheme(8), STATIC), 64, 64))
    assert layer.choice == Selection.always(kernel)
    assert layer.shared is None


def test_a_wide_layer_is_tried_with_enough_outputs() -> None:
    kernel, scheme = Recording(), LinearScheme(WeightScheme(8), STATIC)
    for out, width in ((300, 96), (1100, 512), (300, 8192)):
        assert Chooser([kernel]).choose([random_layer(scheme, out, width)], torch.float32) is None
    assert kernel.sizes == [(300, 96), (1024 + 12, 512), (256 + 44, 8192)]


def test_gradients_take_the_reference_path() -> None:
    layer = random_layer(LinearScheme(WeightScheme(8), DYNAMIC), 64, 64)
    x = torch.randn(3, 64, requires_grad=True)
    expected = torch.autograd.grad(layer(x).sum(), x)[0]
    layer.use(Selection.always(Int8Kernel()), torch.float32)
    layer.shared = SharedInputs()
    assert torch.equal(torch.autograd.grad(layer(x).sum(), x)[0], expected)
    assert expected.any()


def test_rows_between_two_probes_count_as_the_larger() -> None:
    kernel = Int8Kernel()
    choice = Selection((kernel, None, kernel, None))
    taken = [choice.at(rows) is not None for rows in (1, 2, 16, 17, 64, 65, 9999)]
    assert taken == [True, False, False, True, True, False, False]
    assert choice.at(0) is None


class Chain(nn.Module):
    """Two layers that kernels suit and one that none does."""

    def __init__(self) -> None:
        super().__init__()
        self.a = random_layer(LinearScheme(WeightScheme(4, group_size=32)), 128, 64)
        self.b = random_layer(LinearScheme(WeightScheme(8), STATIC), 64, 128)
        self.c = random_layer(LinearScheme(WeightScheme(4, group_size=16)), 64, 64)


def test_state_does_not_depend_on_kernels() -> None:
    model = Chain()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.b.use(Selection.always(Int8Kernel()), torch.float32)
    if cpu_block() is not None:
        model.a.use(Selection.always(Int4Kernel()), torch.float32)
        # the codes were moved, not copied
        assert "weight_packed" not in dict(model.a.named_buffers())
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_use_kernels_keeps_what_a_model_computes() -> None:
    reference, model = Chain(), use_kernels(Chain())
    assert model.c.choice is None
    x = torch.randn(4, 64)
    for name in ("a", "b"):
        expected, found = (getattr(m, name)(x) for m in (reference, model))
        assert (found - expected).norm() < 1e-2 * expected.norm(), name
        x = expected


@pytest.mark.parametrize(
    ("scheme", "names"),
    [
        (LinearScheme(WeightScheme(8), DYNAMIC), ("mlp.down_proj", "mlp.up_proj", "self_attn.k_proj")),
        (LinearScheme(WeightScheme(4, group_size=32)), ("mlp.down_proj",)),  # 32 divides its inputs alone
    ],
    ids=["8 bits", "4 bits"],
)
def test_trained_weights(model_folder: Path, scheme: LinearScheme, names: tuple[str, ...]) -> None:
    assert scheme.weight is not None
    layers = nn.ModuleDict()
    with safe_open(model_folder / "model.safetensors", "pt") as tensors:
        for name in names:
            weight = tensors.get_tensor(f"model.layers.1.{name}.weight").float()
            codes = round_to_nearest(weight, scheme.weight, search=False)
            blank = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
            layers[name.replace(".", "_")] = QuantizedLinear.from_linear(blank, scheme, codes)
    for layer in use_kernels(layers).values():
        assert isinstance(layer, QuantizedLinear)
        x = torch.randn(300, layer.in_features)
        x[0] *= 1000  # a massive token
        exact = x.double() if scheme.activation is None else input64(layer, x)
        assert error(layer(x[1:]), exact[1:], layer) < 8e-3
        assert error(layer(x[:1]), exact[:1], layer) < 8e-3
