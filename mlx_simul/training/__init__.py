"""Training for streaming: pairs of texts in, a checkpoint that translates while it reads out."""
