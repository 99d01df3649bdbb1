"""Statistics of losses: over seeds, over windows of the text, over several variants at once."""
