"""The ways to compute attention, each against the same reference."""
