"""What an exported directory brings as code, beside the files of vgpt that it needs; see `vgpt.interchange.carried`."""
