"""What a run is computed on: devices, their peak rates, memory and threads."""
