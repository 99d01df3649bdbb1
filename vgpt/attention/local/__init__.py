"""Local attention: each query sees a window of the latest keys."""
