"""What a cache holds: as many bytes as the settings say, and nothing beside them."""

from collections.abc import Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from vgpt.conformance.case import Case
from vgpt.conformance.measure import Measurement, WorstCase
from vgpt.conformance.modes import MODES, TRAINING

_ROUNDING = 64
"""Tokens by which a cache may round up what it reserves: a page."""


def cache_bytes(case: Case) -> Measurement:
    """Bytes in use equal `cache_cost` exactly, at any length, batch size and precision."""
    worst = WorstCase("bytes in use are what the settings state (largest difference in bytes)")
    for flags, backbone in case.backbones():
        most = case.tokens if backbone == case else case.some_tokens
        cost = backbone.config.cache_cost(backbone.shape)
        for batch, dtype, mode in (
            (1, torch.float32, TRAINING),
            (3, torch.float32, TRAINING),
            (3, torch.bfloat16, TRAINING),
            (2, torch.bfloat16, MODES[-1]),
            (2, torch.float16, TRAINING),
        ):
            module, autocast = mode.of(backbone.module()), f", {mode.name}" if mode.autocast else ""
            with mode.context(case.device):
                cache = module.make_cache(batch, most, dtype=dtype, device=case.device)
            lengths = (0, 1, 7, 8, 33, 64, 65, most)
            for before, length in zip((0, *lengths), lengths, strict=False):
                if length > before:
                    with torch.inference_mode(), mode.context(case.device):
                        module(backbone.inputs(batch, length - before), cache)
                where = f"{flags}, {dtype}{autocast}, batch {batch}, {length} tokens"
                worst.equal(cache.nbytes, batch * cost.nbytes(length, dtype.itemsize), where)
                worst.add(max(0, cache.nbytes - cache.reserved), 0, f"{where}: more in use than reserved")
    return worst.measurement()


def hidden_memory(case: Case) -> Measurement:
    """All memory that can be reached from a cache is in `reserved`, and `reserved` is near what the settings state."""
    worst = WorstCase("no memory hangs on the cache beside what it reports (bytes too many)")
    for flags, backbone in case.backbones():
        most = case.tokens if backbone == case else case.some_tokens
        cost = backbone.config.cache_cost(backbone.shape)
        for batch, dtype in ((1, torch.float32), (3, torch.bfloat16)):
            module = backbone.module()
            cache = module.make_cache(batch, most, dtype=dtype, device=case.device)
            with torch.inference_mode():
                for chunk in backbone.inputs(batch, most).split([most - 1, 1], 1):
                    module(chunk, cache)
            where = f"{flags}, {dtype}, batch {batch}, {most} tokens"
            # Positions and the like: a whole number per token, and some constants.
            bookkeeping = 8 * most + 1024
            reached = bytes_reached(cache, outside=module)
            beside = max(0, reached - cache.reserved)
            text = f"{where}: {reached:,} bytes hang on a cache that reports {cache.reserved:,} as reserved"
            worst.add(beside if beside > bookkeeping else 0, 0, text)
            stated = batch * cost.nbytes(most, dtype.itemsize)
            fair = 2 * stated + batch * _ROUNDING * cost.per_token * dtype.itemsize + bookkeeping
            text = f"{where}: {cache.reserved:,} bytes are reserved where {stated:,} are stated"
            worst.add(max(0, cache.reserved - fair), 0, text)
    return worst.measurement()


def bytes_reached(root: object, outside: nn.Module | None = None) -> int:
    """Sum the storages of all tensors that can be reached from an object; views of one storage count once.

    Args:
        root: where to start; attributes, slots, mappings and sequences are followed.
        outside: its parameters and buffers are not counted.
    """
    own = set[int]()
    if outside is not None:
        own = {t.untyped_storage().data_ptr() for t in (*outside.parameters(), *outside.buffers())}
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in _tensors(root, set())}
    return sum(size for place, size in storages.items() if place not in own)


def _tensors(value: Any, seen: set[int]) -> Iterator[Tensor]:
    if id(value) in seen or isinstance(value, (nn.Module, type, ModuleType, FunctionType, str, bytes, int, float)):
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield value
        return
    parts: list[Any] = []
    if isinstance(value, dict):
        parts += [*value.keys(), *value.values()]
    elif isinstance(value, (list, tuple, set, frozenset)):
        parts += list(value)
    elif isinstance(value, MethodType):
        parts.append(value.__self__)
    parts += list(getattr(value, "__dict__", {}).values())
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    parts += [getattr(value, name) for name in slots if isinstance(name, str) and hasattr(value, name)]
    for part in parts:
        yield from _tensors(part, seen)
