"""What attention can do: synthetic tasks of recall, state and length, each one file."""
