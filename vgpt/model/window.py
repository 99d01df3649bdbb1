"""What a model sees of a text that grows: all of it, until the context is full and its older half is forgotten."""

import torch
from torch import Tensor

from vgpt.model.decoding import Decoder
from vgpt.model.steps import Steps


class Window:
    """The tokens so far, the part of them that the model sees, and the part that its caches hold.

    Args:
        decoder: the model.
        prompts: token ids (B, T).
        new: most tokens that are appended.
        context: most tokens that the model sees.
        use_cache: False computes all that it sees anew for each token.
        cache_dtype: precision of the caches; None for the decoder's.

    Attributes:
        slides: how many times older tokens were forgotten.
        steps: the caches with what steps over them; None without caches.
    """

    def __init__(
        self,
        decoder: Decoder,
        prompts: Tensor,
        new: int,
        context: int,
        use_cache: bool,
        cache_dtype: torch.dtype | None,
    ) -> None:
        rows, self.end = prompts.shape
        self.decoder, self.context = decoder, context
        self.tokens = torch.empty(rows, self.end + new, dtype=torch.int64, device=decoder.device)
        self.tokens[:, : self.end] = prompts
        self.start = self.fed = max(0, self.end - context)
        self.slides = 0
        self.steps: Steps | None = None
        if use_cache:
            # The last new token is never read.
            capacity = max(1, min(context, self.end - self.start + new - 1))
            self.steps = decoder.steps(rows, capacity, dtype=cache_dtype)

    @property
    def full(self) -> bool:
        """Whether the context has to slide before the next token."""
        return self.end - self.start > self.context

    def next_logits(self) -> Tensor:
        """Return the logits (B, V) of the next token, after forgetting where that is due."""
        if self.full:
            self._slide()
        if self.steps is None:
            return self.decoder.next_logits(self.tokens[:, self.start : self.end])
        logits = self.steps.next_logits(self.tokens[:, self.fed : self.end])
        self.fed = self.end
        return logits

    def append(self, chosen: Tensor) -> None:
        """Let each row go on with its chosen token (B,)."""
        self.tokens[:, self.end] = chosen
        self.end += 1

    def _slide(self) -> None:
        # Half, not one token: reading the window again at every step would be as slow as having no cache.
        self.start = self.fed = self.end - max(1, self.context // 2)
        self.slides += 1
        if self.steps is not None:
            self.steps.reset()
