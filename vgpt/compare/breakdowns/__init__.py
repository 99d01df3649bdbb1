"""Losses broken down by the tokens they are of, row against baseline."""
