"""From recorded runs to a comparison of their variants."""
