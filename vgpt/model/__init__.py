"""The GPT-2 trunk that every attention variant is put into."""
