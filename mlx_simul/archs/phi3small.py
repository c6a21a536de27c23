"""Phi-3-small: mlx-lm's block-sparse layers see tokens that come later; these do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
from mlx_lm.models import phi3small
from mlx_lm.models.base import scaled_dot_product_attention

from mlx_simul.archs.base import Architecture
from mlx_simul.archs.surgery import Repair, Surgery


class CausalAttention(phi3small.Attention):
    """In sparse layers a head sees the blocks just before a token's, and others at a stride."""

    def _block_sparse_attention(
        self, queries: mx.array, keys: mx.array, values: mx.array, scale: float, mask: Any
    ) -> mx.array:
        n_new, n_keys = queries.shape[2], keys.shape[2]
        rows = mx.arange(n_keys - n_new, n_keys)[:, None]
        columns = mx.arange(n_keys)
        row_blocks = rows // self.blocksparse_block_size
        column_blocks = columns // self.blocksparse_block_size
        near = row_blocks - column_blocks < self.blocksparse_num_local_blocks
        heads = mx.arange(1, self.n_heads + 1)[:, None, None]
        striped = (column_blocks + heads) % self.blocksparse_vert_stride == 0
        visible = (columns <= rows) & (near | striped)
        return scaled_dot_product_attention(
            queries, keys, values, cache=None, scale=scale, mask=visible[None]
        )


def _causal(surgery: Surgery, model: Any, config: Mapping[str, Any]) -> None:
    for layer in model.layers:
        surgery.exchange(layer.self_attn, CausalAttention)
    # The ids that it forbids are those of its own vocabulary.
    known = [i for i in model._dummy_tokenizer_ids.tolist() if i < model.args.vocab_size]
    surgery.put(model, "_dummy_tokenizer_ids", mx.array(known, dtype=mx.int32))


ARCHITECTURES = {
    "phi3small": Architecture(
        "phi3small",
        repair=Repair("mlx-lm's block-sparse layers see tokens that come later.", _causal),
        not_in_groups_because="its sparse layers count blocks of keys from the first token on",
    )
}
