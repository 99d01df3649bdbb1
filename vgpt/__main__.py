"""`python -m vgpt` is the `vgpt` command."""

from vgpt.cli.app import main

if __name__ == "__main__":
    main()
