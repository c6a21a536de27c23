"""What this machine offers: files, a terminal, a BLAS, optional packages."""
