"""What a variant is and costs: no runs needed."""
