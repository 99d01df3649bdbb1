"""The one way to name, read, write, lock and digest a file."""
