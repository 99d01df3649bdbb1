"""Losses broken down by the tokens they are of, as `vgpt eval` leaves them with a run."""
