"""The GPT-2 backbone that every attention variant is put into."""
