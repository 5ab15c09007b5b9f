"""A small GPT: the decoder of a transformer, as large or as small as you like.

Letters in the names of tensors: B samples, L positions, D width, H heads, K width of one head (D = H K),
V vocabulary. `x_BLD` has shape (B, L, D).

Written so that every strategy can take it apart: `blocks` is a dictionary, so that a block keeps its name
when others are missing (pipeline stages); q, k, v, o and the two matrices of the MLP are layers of their own
(tensor parallelism splits them by column or row, whole heads at a time); a block maps x_BLD to x_BLD.
"""

# ruff: noqa: N803, N806

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

ROTARY_BASE = 10_000
"""Slowest turn: one radian in about this many positions (Su et al., 2021, RoFormer, section 3.2.2)."""


class GPT(nn.Module):
    """Predicts each next token of a sequence from those before it.

    With V tokens, width D and N blocks it has V D + N (12 D^2 + 2 D) + D parameters, and V D more where
    embedding and head are not tied.
    """

    def __init__(
        self, vocabulary: int, width: int, layers: int, heads: int, dropout: float = 0.0, tied: bool = True
    ) -> None:
        """`heads` divides `width`, and a head's width is even."""
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleDict({str(i): Block(width, heads, dropout) for i in range(layers)})
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self._initialise(width, layers)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """Logits (B, L, V): at position t, of the token at t + 1."""
        x_BLD = self.embedding(tokens_BL)
        for block in self.blocks.values():
            x_BLD = block(x_BLD)
        logits_BLV: Tensor = self.head(self.norm(x_BLD))
        return logits_BLV

    def _initialise(self, width: int, layers: int) -> None:
        """Normal weights; smaller where a block adds to x_BLD, so that 2 `layers` additions do not make it grow.

        The standard deviation 1 / (2 sqrt(D)) is GPT-2's constant 0.02 at D = 625; with that constant,
        narrow models begin with signals too weak to learn from. (Radford et al., 2019, Language Models are
        Unsupervised Multitask Learners, section 2.3, for the factor 1 / sqrt(2 layers).)
        """
        std = 1 / (2 * math.sqrt(width))
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                adds = name.endswith((".o", ".down"))
                nn.init.normal_(module.weight, std=std / math.sqrt(2 * layers) if adds else std)


class Block(nn.Module):
    """Attention, then an MLP; each reads a normalised copy of x and adds to x (pre-norm)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(width)
        self.attention = Attention(width, heads)
        self.mlp_norm = nn.RMSNorm(width)
        self.mlp = MLP(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BLD: Tensor) -> Tensor:
        x_BLD = x_BLD + self.dropout(self.attention(self.attention_norm(x_BLD)))
        y_BLD: Tensor = x_BLD + self.dropout(self.mlp(self.mlp_norm(x_BLD)))
        return y_BLD


class Attention(nn.Module):
    """Causal self-attention with rotary positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.head_width = width // heads
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, width, bias=False)
        self.v = nn.Linear(width, width, bias=False)
        self.o = nn.Linear(width, width, bias=False)

    def forward(self, x_BLD: Tensor) -> Tensor:
        q_BHLK = rotate(self._split_heads(self.q(x_BLD)))
        k_BHLK = rotate(self._split_heads(self.k(x_BLD)))
        v_BHLK = self._split_heads(self.v(x_BLD))
        y_BHLK = scaled_dot_product_attention(q_BHLK, k_BHLK, v_BHLK, is_causal=True)
        y_BLD: Tensor = self.o(y_BHLK.transpose(1, 2).flatten(2))
        return y_BLD

    def _split_heads(self, x_BLD: Tensor) -> Tensor:
        """(B, L, D) to (B, H, L, K); under tensor parallelism H is the number of this rank's heads."""
        x_BLHK: Tensor = x_BLD.unflatten(-1, (-1, self.head_width))  # type: ignore[no-untyped-call]
        return x_BLHK.transpose(1, 2)


class MLP(nn.Module):
    """D -> 4 D -> D at every position by itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x_BLD: Tensor) -> Tensor:
        y_BLD: Tensor = self.down(gelu(self.up(x_BLD)))
        return y_BLD


def rotate(x_BHLK: Tensor) -> Tensor:
    """Tell attention where a token stands: turn the vector at position t by angles in proportion to t.

    Coordinates i and i + K/2 make a plane, which turns by t / ROTARY_BASE^(2i/K). The product of two turned
    vectors depends on the distance of their positions alone, so that there is nothing to learn and no longest
    sequence.
    """
    length, head_width = x_BHLK.shape[-2:]
    position_L = torch.arange(length, device=x_BHLK.device, dtype=torch.float32)
    plane = torch.arange(0, head_width, 2, device=x_BHLK.device, dtype=torch.float32)
    angle = position_L[:, None] * ROTARY_BASE ** (-plane / head_width)
    cos, sin = angle.cos(), angle.sin()
    first, second = x_BHLK.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1).type_as(x_BHLK)
