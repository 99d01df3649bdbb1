"""Models that no class of transformers computes: their own code goes along, as `vgpt.interchange.carried` makes it."""

from pathlib import Path

from vgpt.attention.plugins import origin_of
from vgpt.attention.registry import module_of
from vgpt.interchange.carried import carry, file_of, flat
from vgpt.interchange.stock import Form
from vgpt.model.activations import activation
from vgpt.model.config import GPT2Config
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.interchange import OWN_TYPE
from vgpt.training.checkpoints.checkpoint import Checkpoint

_MODELING, _CONFIGURATION = "modeling_vgpt", "configuration_vgpt"
_REMOTE = "vgpt.interchange.remote"
_ANCHOR = "from .vgpt_model_gpt2 import GPT2Model\n"
"""The last import of the model's code."""


def own_form(model: GPT2Model) -> Form:
    """Return a model as the code of its directory has it."""
    config = model.config
    weights = {f"transformer.{name}": tensor.detach() for name, tensor in model.state_dict().items()}
    settings = {
        "model_type": OWN_TYPE,
        "auto_map": {
            "AutoConfig": f"{_CONFIGURATION}.VgptConfig",
            "AutoModelForCausalLM": f"{_MODELING}.VgptForCausalLM",
        },
        "model": config.model_dump(mode="json"),
        "vocab_size": config.vocab_size,
        "hidden_size": config.n_embd,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "max_position_embeddings": config.block_size,
        "tie_word_embeddings": config.tie_weights,
    }
    return Form("VgptForCausalLM", settings, weights)


def write_code(directory: Path, checkpoint: Checkpoint) -> None:
    """Write the code of a model into a directory: settings, model, and all that its attention is made of.

    Raises:
        CheckpointError: the source of a plug-in cannot travel along.
    """
    config = checkpoint.model
    modules = list(dict.fromkeys(_modules(config)))
    plugins = {name.partition(".")[0] for name in modules} - {"vgpt"}
    files = carry([f"{_REMOTE}.{_MODELING}", f"{_REMOTE}.{_CONFIGURATION}", *modules], plugins)
    main = file_of(f"{_REMOTE}.{_MODELING}")
    before, anchor, after = files[main].partition(_ANCHOR)
    assert anchor, "the model's code imports the backbone"
    registering = [flat(module) for module in modules]
    others = [name.removesuffix(".py") for name in files if name.removesuffix(".py") not in registering]
    files[main] = "".join([before, anchor, _imports(registering, others), after])
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8", newline="\n")


def _imports(registering: list[str], others: list[str]) -> str:
    """Return the lines that import what registers itself, and name all other files.

    Older versions of transformers copy only those files that the model's own names.
    """
    lines = [f"from .{name} import __name__ as _{name}  # noqa: F401" for name in registering]
    lines += ["", "if TYPE_CHECKING:  # what transformers copies along"]
    lines += [f"    from .{name} import __name__ as _{name}" for name in others if name != _MODELING]
    return "\n".join([*lines, ""])


def _modules(config: GPT2Config) -> list[str]:
    """Return the modules with the settings and layers of a model, and its activation."""
    found: list[str] = []
    for index in range(config.n_layer):
        layer = config.attn.at(index)
        found += [type(layer).__module__, module_of(layer.kind).__module__]
        if plugin := origin_of(layer.kind):
            found.append(plugin.module)  # it may register more than what this layer's files do
    return [*found, activation(config.activation).__module__]
