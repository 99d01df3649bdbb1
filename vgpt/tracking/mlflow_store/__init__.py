"""MLflow's side of the records: the one file that imports it, and the process that brings journals to it."""
