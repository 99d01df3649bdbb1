"""Standard suites through lm-evaluation-harness."""
