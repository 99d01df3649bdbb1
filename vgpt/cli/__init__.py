"""The `vgpt` command: options generated from settings, one thin module per subcommand."""
