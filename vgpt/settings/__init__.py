"""Validated settings of every subcommand, and where each value came from."""
