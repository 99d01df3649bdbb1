"""Settings of a vgpt model for transformers."""

from typing import Any

from transformers import PretrainedConfig  # pyright: ignore[reportMissingImports]


class VgptConfig(PretrainedConfig):
    """Settings of a GPT-2 model with any attention.

    Args:
        model: all settings of the architecture, as vgpt writes them; those below are read from there.
        tie_word_embeddings: whether the output layer is the token embedding. It is named here because transformers
            takes weights for untied where a class of settings does not know the word.
        **kwargs: of every model.
    """

    model_type = "vgpt"

    def __init__(self, model: dict[str, Any] | None = None, tie_word_embeddings: bool = True, **kwargs: Any) -> None:
        self.model = dict(model or {})
        # Under the names by which other programs ask for them.
        for name, ours in (
            ("vocab_size", "vocab_size"),
            ("hidden_size", "n_embd"),
            ("num_hidden_layers", "n_layer"),
            ("num_attention_heads", "n_head"),
            ("max_position_embeddings", "block_size"),
        ):
            if ours in self.model:
                kwargs[name] = self.model[ours]
        kwargs["tie_word_embeddings"] = tie_word_embeddings
        super().__init__(**kwargs)
        self.tie_word_embeddings = tie_word_embeddings
