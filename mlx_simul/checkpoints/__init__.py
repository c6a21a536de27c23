"""Checkpoint folders: made of other formats, and proven."""
