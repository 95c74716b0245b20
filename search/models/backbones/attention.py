"""Attention whose two matrix products are modules, so that they can be counted and quantized.

timm computes attention either by a fused kernel or by two bare ``@`` operators; neither can be
seen from outside. The replacement below keeps timm's submodules (and so its parameter names) and
its arithmetic, and makes each product a :class:`MatMul`.
"""

from __future__ import annotations

import torch
from timm.layers.attention import Attention as TimmAttention
from torch import Tensor, nn

from search.models.counted import MatMul


class ExplicitAttention(nn.Module):
    """timm's multi-head self-attention with the products ``scores`` and ``context`` spelled out.

    Args:
        source: the timm attention whose submodules are taken over (shared, not copied).
    """

    def __init__(self, source: TimmAttention) -> None:
        super().__init__()
        self.num_heads = source.num_heads
        self.head_dim = source.head_dim
        self.scale = source.scale
        self.qkv = source.qkv
        self.q_norm = source.q_norm
        self.k_norm = source.k_norm
        self.attn_drop = source.attn_drop
        self.norm = source.norm
        self.gate = source.gate
        self.proj = source.proj
        self.proj_drop = source.proj_drop
        self.scores = MatMul()
        self.context = MatMul()

    def forward(
        self,
        x: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Map tokens ``[B, N, D]`` to tokens ``[B, N, D]``.

        Args:
            x: the tokens.
            attn_mask: see :func:`masked_softmax`.
            is_causal: whether a token sees only itself and those before it, in place of a mask.
            bias: added to the scores, broadcast to ``[B, heads, N, N]``.

        Raises:
            ValueError: for a mask and ``is_causal`` at once.
        """
        if is_causal:
            if attn_mask is not None:
                raise ValueError("attn_mask and is_causal exclude each other: give one")
            attn_mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        scores = self.scores(q * self.scale, k.transpose(-2, -1))
        if bias is not None:
            scores = scores + bias
        out = self.context(self.attn_drop(masked_softmax(scores, attn_mask)), v)
        out = self.norm(out.transpose(1, 2).reshape(batch, tokens, -1))
        if self.gate is not None:
            out = out * torch.sigmoid(self.gate(x))
        projected: Tensor = self.proj_drop(self.proj(out))
        return projected


def masked_softmax(scores: Tensor, attn_mask: Tensor | None) -> Tensor:
    """Probabilities ``[B, heads, N, N]``, as in torch's ``scaled_dot_product_attention``.

    Args:
        scores: ``[B, heads, N, N]``, queries before keys.
        attn_mask: broadcast to the scores: True where a query sees a key, or numbers that are
            added; a query that sees no key has no probability anywhere.
    """
    if attn_mask is None:
        return scores.softmax(dim=-1)
    if attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    else:
        scores = scores + attn_mask
    blind = (scores == -torch.inf).all(dim=-1, keepdim=True)
    # Before the softmax as well: otherwise NaN would come back with the gradients.
    return scores.masked_fill(blind, 0.0).softmax(dim=-1).masked_fill(blind, 0.0)


def make_attention_explicit(model: nn.Module) -> int:
    """Replace every timm attention inside ``model`` in place.

    Returns:
        how many there are now; calling it again changes nothing.
    """
    explicit = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is TimmAttention:
                setattr(parent, name, ExplicitAttention(child))
                explicit += 1
            elif isinstance(child, ExplicitAttention):
                explicit += 1
    return explicit
