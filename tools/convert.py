#!/usr/bin/env python
"""Convert a checkpoint, safetensors or GGUF, into an MLX folder: ``mlx-simul convert``."""

import sys

from mlx_simul.console.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
