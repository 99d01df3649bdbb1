"""Standard suites, compared."""
