"""Weights as other libraries leave them in a directory: found, named plainly, and checked before anything is built.

The one reader of foreign weights. It knows one file and several with an index, the prefixes that wrappers leave before
names, an embedding that stands under the name of the output layer it is tied to, and half precision.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vgpt.errors import CheckpointError
from vgpt.formatting import counted

FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
_PREFIXES = ("_orig_mod.", "module.", "model.", "transformer.")
_MASKS = (".attn.bias", ".attn.masked_bias")
_LARGEST_JSON = 1 << 26
_LONGEST_NAME = 80
"""What an error shows of a name, in characters: an index may hold names that no file can have."""


def weight_files(directory: Path) -> list[Path]:
    """Return the files that hold the weights of a directory, in the order of their names.

    Raises:
        CheckpointError: none are there, or some are missing; the message says which, and the hint what to do.
    """
    if not directory.is_dir():
        hint = f"Give a directory that holds {CONFIG} and {FILE}."
        what = "is a file, not a directory" if directory.is_file() else "not found"
        raise CheckpointError(f"{directory}: {what}", hint)
    if (directory / FILE).is_file():
        return [directory / FILE]
    if not (directory / INDEX).is_file():
        raise _nothing_to_read(directory)
    names = sorted(set(_index(directory).values()))
    held = {path.name for path in directory.iterdir() if path.is_file()}
    if missing := [name for name in names if name not in held]:
        named = ", ".join(name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..." for name in missing[:3])
        raise CheckpointError(
            f"{directory}: {named}{', ...' if len(missing) > 3 else ''} of {counted(len(names), 'file')} missing",
            f"{INDEX} names them: copy them from where the others came from.",
        )
    return [directory / name for name in names]


def read_config(directory: Path) -> dict[str, Any]:
    """Return the object in a directory's `config.json`.

    Raises:
        CheckpointError: there is none.
    """
    return _json_object(directory / CONFIG)


def read_weights(directory: Path) -> dict[str, Tensor]:
    """Return all weights of a directory by their plain names, in float32.

    Stored causal masks are left out.

    Raises:
        CheckpointError: files are missing or damaged, two weights have one name, or one holds no finite real numbers.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    found: dict[str, Tensor] = {}
    for path in weight_files(directory):
        try:
            part = load_file(path)
        except (SafetensorError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, OSError) as error:
            raise CheckpointError(
                f"{directory}: not a readable GPT-2 model: {path.name}: {str(error).splitlines()[0]}",
                f"It is damaged or cut short: copy {path.name} again.",
            ) from error
        for name, tensor in plain_names(part).items():
            if name in found and not torch.equal(found[name], tensor):
                raise CheckpointError(f"{directory}: two different weights are called {name!r} in its files")
            found[name] = tensor
    if not (directory / FILE).is_file():
        wanted = {_plain(name) for name in _index(directory) if not name.endswith(_MASKS)}
        if lacking := sorted(wanted - found.keys()):
            raise CheckpointError(
                f"{directory}: {INDEX} names {lacking[0]!r}, which its file does not hold",
                "The files are not of one model: copy all of them again.",
            )
    check_numbers(found, str(directory))
    return {name: tensor.float() for name, tensor in found.items()}


def plain_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights without what wrappers put before their names, in any order, and without stored causal masks.

    Raises:
        CheckpointError: two different weights come to one name.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        plain = _plain(name)
        if plain.endswith(_MASKS):
            continue
        if plain in found and not torch.equal(found[plain], tensor):
            raise CheckpointError(f"two different weights are called {plain!r} but for what stands before it")
        found[plain] = tensor
    return found


def untied(weights: Mapping[str, Tensor], *, tie: bool) -> dict[str, Tensor]:
    """Return weights with the embedding in its place: of a tied pair a file may hold either, or both.

    Raises:
        CheckpointError: both are there and differ, though they should be one.
    """
    state = dict(weights)
    if not tie:
        return state
    output = state.pop("lm_head.weight", None)
    embedding = state.get("wte.weight")
    if output is not None and embedding is None:
        state["wte.weight"] = output
    elif output is not None and embedding is not None and not torch.equal(output, embedding):
        raise CheckpointError(
            "the embedding and the output layer differ, though the settings say that they are tied",
            f'Write "tie_word_embeddings": false into {CONFIG}, and train with --no-tie-weights.',
        )
    return state


def check_numbers(weights: Mapping[str, Tensor], owner: str) -> None:
    """Refuse weights that no training can start from.

    Raises:
        CheckpointError: one is of integers, or holds NaN or infinity.
    """
    for name, tensor in weights.items():
        if not tensor.is_floating_point():
            raise CheckpointError(
                f"{owner}: {name} is of {str(tensor.dtype).removeprefix('torch.')}, not of real numbers",
                "Quantized weights cannot be trained: save the model in float32, float16 or bfloat16.",
            )
        if wrong := int((~torch.isfinite(tensor.float())).sum()):
            raise CheckpointError(
                f"{owner}: {wrong:,} of {tensor.numel():,} numbers in {name} are NaN or infinite",
                "The model had diverged when it was saved: start from an earlier checkpoint of it.",
            )


def _plain(name: str) -> str:
    while prefix := next((prefix for prefix in _PREFIXES if name.startswith(prefix)), ""):
        name = name.removeprefix(prefix)
    return name


def _index(directory: Path) -> dict[str, str]:
    """Return which file of the directory holds each weight."""
    table = _json_object(directory / INDEX).get("weight_map")
    if not isinstance(table, dict) or not table or not all(isinstance(name, str) for name in table.values()):
        raise CheckpointError(f"{directory / INDEX}: it names no files of weights", f"Copy {INDEX} again.")
    if strange := [name for name in table.values() if Path(name).name != name or "\0" in name]:
        raise CheckpointError(f"{directory / INDEX}: it names a file elsewhere, {strange[0]!r}")
    return table


def _json_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        hint = f"Give a directory that holds {CONFIG} and {FILE}."
        raise CheckpointError(f"{path}: not found", hint)
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise ValueError("too large")
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path.parent}: not a readable GPT-2 model: {path.name}: {error}", f"Copy {path.name} again."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path.parent}: not a readable GPT-2 model: {path.name} holds no object of settings")
    return content


def _nothing_to_read(directory: Path) -> CheckpointError:
    names = {path.name for path in directory.iterdir()}
    message = f"{directory}: {FILE} not found"
    if pickles := sorted(name for name in names if name.startswith("pytorch_model") and name.endswith(".bin")):
        return CheckpointError(
            f"{message}, only {pickles[0]}, which can run any program when it is opened",
            'Where you trust it, write safe files beside it: python -c "from transformers import AutoModelForCausalLM '
            f"as M; M.from_pretrained('{directory}').save_pretrained('{directory}')\"",
        )
    if "adapter_model.safetensors" in names or "adapter_config.json" in names:
        return CheckpointError(
            f"{message}, only an adapter, which changes the weights of another model",
            "Merge it into that model first: peft's merge_and_unload(), then save_pretrained(DIR), and give hf:DIR.",
        )
    others = sorted(name for name in names if name.endswith(".safetensors"))
    renamed = f" Is it {others[0]}? Then: mv {directory / others[0]} {directory / FILE}" if len(others) == 1 else ""
    return CheckpointError(message, f"Give a directory that holds {CONFIG} and {FILE}.{renamed}")
