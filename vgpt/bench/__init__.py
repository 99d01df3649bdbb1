"""Speed and memory of attention variants, measured side by side in one process."""
