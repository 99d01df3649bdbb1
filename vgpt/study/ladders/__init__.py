"""Ladders: one comparison at several sizes, rung by rung, and what is foretold of the next one."""
