"""`python -m service` is the `flexihash` command."""

from service.cli import main

main()
