"""``python -m mlx_simul``: the command line."""

import sys

from mlx_simul.console.cli import main

if __name__ == "__main__":
    sys.exit(main())
