"""Standard suites as tables and as data for programs."""
