"""Results of standard suites, kept with a run."""
