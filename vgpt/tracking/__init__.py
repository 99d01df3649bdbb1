"""Run records: a local journal that is always written, and its mirror in MLflow."""
