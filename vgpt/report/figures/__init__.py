"""The pictures of a comparison: loss curves, loss against costs, cache over context."""
