"""Many live sessions at once."""
