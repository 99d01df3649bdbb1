"""What must be equal between the runs of a comparison, what is not, and what comes with a variant."""
