"""``python -m hwnas``, and ``torchrun -m hwnas``: the command."""

from hwnas.cli import main

main()
