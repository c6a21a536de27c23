"""What a pass costs, in tokens, as measured on a CPU (docs/speed.md): one place to tune it."""

MAX_SOURCE_TOKENS_PER_PASS = 512
"""Bounds the mask of one source pass: 512 x S booleans."""

PASS_OVERHEAD_TOKENS = 32
"""Apart from its tokens, a pass costs as much as this many of them."""

MAX_FUSED_TOKENS = 16
"""Above this, compute dominates a pass, so a pass that both reads and writes saves nothing, and the
language-model head over the source's rows is wasted."""

READ_AHEAD_TOKENS = 64
"""This many waiting tokens cost less in a pass of their own than word by word."""
