"""Comparison of runs: grouping, fairness audit, tables."""
