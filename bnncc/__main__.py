"""python -m bnncc."""

from bnncc.cli import main

main()
