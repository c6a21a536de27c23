"""Characters, words and token ids; no arrays."""
