"""Attention variants: settings, masks and costs (torch-free), modules, caches, references."""
