"""`python -m raycls` is `raycls`."""

from raycls.cli import main

main()
