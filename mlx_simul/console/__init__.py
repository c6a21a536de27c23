"""The command line's translate: a source as it arrives, and what is shown of it."""
