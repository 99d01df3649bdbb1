"""Losses broken down by the tokens they are of, for people and for programs."""
