"""Which runs a question needs: planning, training and reproducing them."""
