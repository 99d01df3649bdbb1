"""Token shards with a manifest, their preparation from text, and deterministic batches."""
