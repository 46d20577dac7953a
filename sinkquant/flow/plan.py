"""The whole decision before any weight changes: a pure function of recipe, report, roles and shapes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from sinkquant.errors import UsageError
from sinkquant.flow import modality
from sinkquant.flow.parts import recipes_of, said
from sinkquant.flow.spikes import MOST
from sinkquant.formats.format import FORMATS
from sinkquant.models.cached import UNSEEN
from sinkquant.models.roles import AttentionKind, Block, Roles, Site, SiteKind, Stack
from sinkquant.models.writers import ON_THE_STREAM
from sinkquant.quantization.scheme import ActivationScheme, KVScheme, LinearScheme, Transforms, WeightScheme
from sinkquant.recipes.schema import Recipe

if TYPE_CHECKING:
    from torch import nn

BOUND = "the head and several embeddings have one weight"
Shapes = Mapping[str, tuple[int, int]]  # module name -> (out features, in features)


@dataclass(frozen=True)
class Plan:
    """What will be done. `notes` are sentences on what was left out or changed, and why."""

    recipe: Recipe
    prefix: tuple[int, ...]
    rotations: Transforms
    linears: Mapping[str, LinearScheme]
    kv: KVScheme
    bits: Mapping[str, int]  # bits of every matrix of the model
    bytes: int  # of the checkpoint, scales included
    notes: tuple[str, ...]
    shapes: Shapes = field(repr=False, default_factory=dict)
    recipes: Mapping[str, Recipe] = field(repr=False, default_factory=dict)  # by part, where a model has several
    prefixed: frozenset[str] = frozenset()  # the parts whose rows the prefix stands in front of

    def recipe_of(self, part: str) -> Recipe:
        """What is done in a stack, or in the connector."""
        return self.recipes.get(part, self.recipe)


def weight_shapes(model: nn.Module, roles: Roles) -> Shapes:
    """Of every linear of the blocks, the embedding and the head."""
    names = [name for _, site in roles.linears for name in site.linears]
    names += [name for name in (roles.embedding, roles.head) if name is not None]
    return {name: tuple(model.get_submodule(name).weight.shape) for name in names}  # type: ignore[misc, union-attr, arg-type]


def make_plan(recipe: Recipe, prefix: tuple[int, ...], roles: Roles, shapes: Shapes, no_prefix: str | None) -> Plan:
    """`shapes` as `weight_shapes` gives them; `no_prefix`: why none is possible."""
    refuse_plan(recipe, roles)
    notes: list[str] = [*roles.unexplained, *_grouped(roles)]
    if prefix and no_prefix:
        notes.append(f"no prefix: {no_prefix}")
        prefix = ()
    recipes = recipes_of(recipe, roles, prefix=not no_prefix)
    notes.extend(said(recipe, recipes, roles))
    if roles.text is None or no_prefix:
        recipe = recipes[roles.list_name] if recipe.parts.language == "recipe" else recipe
    if prefix and roles.positions is not None:
        left, places = roles.positions.places - len(prefix), roles.positions.places
        notes.append(f"texts have at most {left} tokens in place of {places}: the first positions are the prefix's")
    floats = frozenset(stack.name for stack in roles.stacks if _is_float(recipes[stack.name], recipe))
    kept = sum(keeps(block) for stack in roles.stacks for block in stack.blocks if stack.name not in floats)
    rotations = _rotations(recipe, roles, floats, notes, rounds_keys=bool(kept) and recipe.kv_cache.bits < 16)
    linears: dict[str, LinearScheme] = {}
    for part, site in roles.linears:
        own = replace(rotations, inputs=False) if part in rotations.apart else rotations
        linears.update(_schemes(recipes[part], site, shapes, own, notes))
    linears = modality.allowed(linears, recipe, roles)
    notes.extend(modality.said(linears, recipe))
    ends = recipes[roles.list_name].weights
    bits = {name: scheme.weight.bits if scheme.weight else 16 for name, scheme in linears.items()}
    if roles.embedding is not None:
        bits[roles.embedding] = ends.embedding_bits
    rounded = not roles.tied or roles.list_name in rotations.stream or ends.head_bits < 16
    if roles.head is not None and rounded and not roles.bound:
        bits[roles.head] = ends.head_bits
    if roles.bound and ends.head_bits < 16:
        notes.append(f"the head keeps its precision: {BOUND}")
    if any(scheme.spikes for scheme in linears.values()):
        notes.append(_spiked(recipe, linears, shapes))
    cache = recipe.kv_cache
    if cache.bits < 16 and not kept:
        notes.append(f"keys and values stay in full precision: {no_attention(roles)}")
    elif not roles.attends and not (kept and cache.bits < 16):
        notes.append(f"weights and inputs alone are rounded, without prefix and cache: {no_attention(roles)}")
    elif cache.bits < 16 and kept < len(roles.blocks):
        notes.append(f"keys and values are rounded in {kept} of {len(roles.blocks)} blocks")
    kv = KVScheme()
    if kept and not roles.attends:
        notes.extend(_seen_in_the_cache(recipe))
        kv = KVScheme(cache.bits, rotate=cache.bits < 16 and (rotations.keys or cache.balance))
    elif kept:
        kv = KVScheme(cache.bits, cache.recent, rotations.keys and not cache.balance, balance=cache.balance)
    size = _size(bits, shapes, linears) + _spendable(recipe, shapes, linears)
    prefixed = frozenset((roles.text.name,)) if prefix and roles.text is not None else frozenset()
    return Plan(
        recipe, prefix, rotations, linears, kv, bits, size, tuple(dict.fromkeys(notes)), shapes, recipes, prefixed
    )


def _is_float(own: Recipe, recipe: Recipe) -> bool:
    """Whether a part is left alone where others are not."""
    return own is not recipe and own.weights.bits == own.activations.bits == own.kv_cache.bits == 16


def refuse_plan(recipe: Recipe, roles: Roles) -> None:
    """Raise UsageError where nothing of what the recipe asks for is possible in this model."""
    if not any(block.linears for block in roles.blocks):
        raise UsageError("no linear layers were found inside the blocks: this architecture is not supported yet.")
    if recipe.weights.bits < 16 or recipe.activations.bits < 16:
        return
    if recipe.kv_cache.bits < 16 and not any(keeps(block) for block in roles.blocks):
        raise UsageError(
            f"nothing would be quantized: {no_attention(roles)}, so keys and values cannot be rounded; choose a recipe "
            "that rounds weights, such as --recipe w8a8-static."
        )


def keeps(block: Block) -> bool:
    """Whether keys and values of the block are kept for later: no query of an encoder comes later."""
    return bool(block.cached) or any(one.causal or one.kind is AttentionKind.CROSS for one in block.attentions)


def no_attention(roles: Roles) -> str:
    """Why no block's keys and values can be seen."""
    if roles.attends:
        return "no block has an attention that keeps any"
    return roles.unseen or UNSEEN


def _seen_in_the_cache(recipe: Recipe) -> list[str]:
    """What is said where keys and values alone are seen, as a cache returns them."""
    cache = recipe.kv_cache
    if cache.bits >= 16:
        return []
    notes = [f"keys and values are rounded where they are cached, without a prefix: {UNSEEN}"]
    if cache.balance:
        notes.append("keys are rotated in place of being balanced: the queries are not seen")
    if cache.recent:
        notes.append("no recent tokens stay exact: a cache returns the same keys and values to all queries")
    return notes


def _grouped(roles: Roles) -> list[str]:
    """What the trace says of the blocks, one sentence for all that it is said of."""
    places: dict[str, list[int]] = {}
    for index, block in enumerate(roles.blocks):
        for sentence in dict.fromkeys(block.unexplained):
            places.setdefault(sentence, []).append(index)
    return [f"{_blocks(indices, len(roles.blocks))}: {sentence}" for sentence, indices in places.items()]


def _blocks(indices: list[int], total: int) -> str:
    if len(indices) == total:
        return "every block"
    if len(indices) == 1:
        return f"block {indices[0]}"
    first, last = indices[0], indices[-1]
    if indices == list(range(first, last + 1)):
        return f"blocks {first} to {last}"
    return f"{len(indices)} blocks from {first} to {last}"


def raised(plan: Plan, names: Collection[str], shapes: Shapes, note: str, bits: int = 8) -> Plan:
    """The plan with `bits` a weight where the linears `names` have fewer, all else as it was, and one more note."""
    words = not FORMATS[plan.recipe.target].ours  # for others int8 weights are for int8 inputs
    linears, few = dict(plan.linears), [name for name in names if plan.bits[name] < bits]
    for name in few:
        weight = linears[name].weight
        assert weight is not None
        finer = None if bits == 16 else replace(weight, bits=bits, words=words and bits == 8)
        linears[name] = replace(linears[name], weight=finer)
    return reshaped(plan, linears, {**plan.bits, **dict.fromkeys(few, bits)}, shapes, note)


def reshaped(
    plan: Plan, linears: Mapping[str, LinearScheme], bits: Mapping[str, int], shapes: Shapes, note: str
) -> Plan:
    """The plan with other schemes and bits, its size after them, and one more note."""
    size = _size(bits, shapes, linears) + _spendable(plan.recipe, shapes, linears)
    return replace(plan, linears=linears, bits=bits, bytes=size, notes=(*plan.notes, note))


def _rotations(
    recipe: Recipe, roles: Roles, floats: Collection[str], notes: list[str], *, rounds_keys: bool
) -> Transforms:
    """`floats`: stacks that are left alone."""
    wanted = recipe.transforms
    roles = replace(roles, stacks=tuple(stack for stack in roles.stacks if stack.name not in floats))
    ours = FORMATS[recipe.target].ours
    reasons = {stack.name: BOUND if roles.bound else _keeps_basis(stack) for stack in roles.stacks if wanted.r1}
    if (
        ours
    ):  # smoothing, which needs the model's own channels, was measured better behind layer norms (docs/low-bit.md)
        means = {stack.name for stack in roles.stacks if stack.subtracts_mean}
        reasons |= {n: "layer norms read the stream" for n, reason in reasons.items() if reason is None and n in means}
    for name, reason in reasons.items():
        if reason is not None:
            notes.append(f"R1 is left out{f' of {name}' if len(roles.stacks) > 1 else ''}: {reason}")
    stream = tuple(name for name, reason in reasons.items() if reason is None)
    smooth, inputs, apart = wanted.smooth, wanted.inputs, tuple[str, ...]()
    if len(stream) < len(reasons) and ours:
        apart = tuple(name for name in stream if roles.text is not None and name == roles.text.name)  # behind towers
        where = "" if not stream else " in the towers" if apart else " in all stacks"
        notes.append(f"smoothing and online rotations of the inputs take R1's place{where}")
        stream, smooth, inputs = apart, True, True
    fold = tuple(stack.name for stack in roles.stacks) if wanted.fold_norms else ()
    if fold and len(stream) < len(reasons) and not smooth:
        # Large channels of the stream are often kept small by the norm's scale alone; nothing would spread them.
        fold = stream
        notes.append("norms keep their scales where R1 is left out, which alone would have needed them elsewhere")
    values = tuple(b.name for b in roles.blocks if wanted.r2 and any(a.plain for a in b.attentions))
    if wanted.r2 and len(values) < len(roles.blocks):
        notes.append(f"R2 is left out in {len(roles.blocks) - len(values)} blocks without plain value projections")
    keys = wanted.r3 and rounds_keys  # others would be rotated for nothing
    return Transforms(fold, stream, values, keys, wanted.r4, wanted.seed, smooth, inputs, tuple(sorted(floats)), apart)


def _keeps_basis(stack: Stack) -> str | None:
    """Why a stack's stream cannot be rotated, or None."""
    if stack.sandwiched:
        return "norms between the writers and the stream (sandwich norms) cannot absorb it"
    if any(ON_THE_STREAM in block.unexplained for block in stack.blocks):
        return ON_THE_STREAM
    if not stack.closed:
        return "the stream begins with something that no rotation can go into"
    if stack.final_norm is not None and not stack.final_readers:
        return "what reads the stream behind the last block needs its basis"
    if not stack.rotates:
        return "not everything that reads or writes the stream could be explained"
    return None


def _schemes(
    recipe: Recipe, site: Site, shapes: Shapes, rotations: Transforms, notes: list[str]
) -> dict[str, LinearScheme]:
    weights, inputs = recipe.weights, recipe.activations
    words = weights.bits == 8 and inputs.bits == 16 and not FORMATS[recipe.target].ours
    schemes = {}
    for name in site.linears:
        width = shapes[name][1]
        weight = None
        if weights.bits < 16:
            size = _group_size(weights.group_size, width, notes)
            weight = WeightScheme(weights.bits, weights.symmetric, size, weights.limit, words)
        activation = None
        if inputs.bits < 16:
            route = inputs.route if inputs.mode == "static" else None
            activation = ActivationScheme(inputs.bits, inputs.mode, inputs.symmetric, route=route)
        rotate = _rotated_online(rotations, site.kind) and (weight is not None or activation is not None)
        # A rotation spreads spikes: units in front of it were measured to bring nothing (SmolLM2, 4 and 8 bits).
        most = (0 if rotate else MOST) if inputs.spikes == "auto" else inputs.spikes
        spikes = 0 if activation is None else min(width - 1, most)
        schemes[name] = LinearScheme(weight, activation, rotate, inputs.center, spikes)
    return schemes


def _rotated_online(rotations: Transforms, kind: SiteKind) -> bool:
    if kind is SiteKind.DOWN_INPUT:
        return rotations.down
    return rotations.inputs and kind is not SiteKind.OTHER


def _group_size(wanted: int | None, width: int, notes: list[str]) -> int | None:
    """`wanted`, or the largest smaller power of two that divides `width`."""
    if wanted is None or width % wanted == 0:
        return wanted
    power = wanted & -wanted
    if power != wanted:
        raise UsageError(
            f"weights.group_size {wanted} does not divide a layer of {width} inputs: choose a power of two."
        )
    while width % power:
        power //= 2
    if power < 4:
        raise UsageError(
            f"no group size between 4 and {wanted} divides a layer of {width} inputs: set weights.group_size=null."
        )
    notes.append(f"groups of {power} instead of {wanted} where the width is {width}, which {wanted} does not divide")
    return power


def _spiked(recipe: Recipe, linears: Mapping[str, LinearScheme], shapes: Shapes) -> str:
    """What is said of spike units, with their share of the multiplications of all linears in the blocks."""
    share = sum(scheme.spikes * shapes[name][0] for name, scheme in linears.items()) / count(linears, shapes)
    asked = recipe.activations.spikes
    if asked == "auto" or not asked:  # where nothing is asked for, it is where there is no prefix
        what = f"up to {MOST} channels of inputs that are not rotated online are multiplied in float, where it pays"
        return f"spike units: {what}, at most {share:.1%} of the blocks' multiply-adds"
    return (
        f"spike units: {asked} channels of each input are multiplied in float, {share:.1%} of the blocks' multiply-adds"
    )


def _size(bits: Mapping[str, int], shapes: Shapes, linears: Mapping[str, LinearScheme]) -> int:
    return sum(_bytes(bits[name], shapes[name], linears.get(name)) for name in bits)


def count(names: Iterable[str], shapes: Shapes) -> int:
    """Weights of the linears `names`."""
    return sum(shapes[name][0] * shapes[name][1] for name in names)


def _spendable(recipe: Recipe, shapes: Shapes, linears: Mapping[str, LinearScheme]) -> int:
    """Bytes that the budget will add, at most."""
    if recipe.weights.budget is None:
        return 0
    return int(count(linears, shapes) * (recipe.weights.budget - recipe.weights.bits) / 8)


def _bytes(bits: int, shape: tuple[int, int], scheme: LinearScheme | None) -> int:
    out, width = shape
    groups = 1
    if scheme is not None and scheme.weight is not None and scheme.weight.group_size:
        groups = width // scheme.weight.group_size
    spikes = 0 if scheme is None else scheme.spikes
    return out * width * bits // 8 + (4 * out * groups if bits < 16 else 0) + spikes * (2 * out + 4)
