"""Sliding-window attention: a token sees the last `window_size` tokens, itself included."""
