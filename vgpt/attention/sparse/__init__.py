"""Block-sparse attention in the style of BigBird: global, window and random blocks, made causal."""
