"""Latent attention: one low-rank latent per token is cached instead of keys and values (mla)."""
