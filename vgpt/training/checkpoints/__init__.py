"""Saved states: writing and reading them, and beginning from another run's or from GPT-2's weights."""
