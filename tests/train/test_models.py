from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from distlab.errors import SettingError
from distlab.train import gpt
from distlab.train.config import ModelConfig
from distlab.train.gpt import GPT, Block, rotate
from distlab.train.models import (
    CLASSES,
    IGNORED,
    VOCABULARY,
    blocks,
    build_model,
    gradient_bytes,
    loss_sum,
    parameter_count,
)

SMALL = ModelConfig(kind="gpt", width=16, heads=2)
KINDS = (ModelConfig(kind="mlp", width=24), ModelConfig(kind="cnn", width=6), SMALL)


def _inputs(kind: str, rows: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    if kind == "gpt":
        return torch.randint(VOCABULARY, (rows, 11), generator=generator)
    return torch.rand(rows, 1, 8, 8, generator=generator)


@pytest.mark.parametrize("config", KINDS, ids=lambda config: config.kind)
def test_weights_depend_on_the_seed_alone(config: ModelConfig) -> None:
    torch.manual_seed(1)
    first = build_model(config, seed=5).state_dict()
    drawn = torch.rand(1)
    again = build_model(config, seed=5).state_dict()
    other = build_model(config, seed=6).state_dict()
    assert all(again[name].equal(first[name]) for name in first)
    assert any(not other[name].equal(first[name]) for name in first)
    torch.manual_seed(1)
    assert torch.rand(1).equal(drawn)  # as if no model had been built in between


@pytest.mark.parametrize("width", [1, 8, 96])
def test_parameter_counts_of_the_classifiers(width: int) -> None:
    model = build_model(ModelConfig(kind="mlp", width=width), 0)
    assert parameter_count(model) == width**2 + 76 * width + 10
    assert gradient_bytes(model) == 4 * parameter_count(model)
    assert (
        parameter_count(build_model(ModelConfig(kind="cnn", width=width), 0))
        == 9 * width**2 + 51 * width + 10
    )


@pytest.mark.parametrize(("width", "layers", "heads"), [(16, 1, 1), (16, 3, 8), (96, 2, 6)])
def test_parameter_count_of_the_gpt(width: int, layers: int, heads: int) -> None:
    config = ModelConfig(kind="gpt", width=width, layers=layers, heads=heads)
    body = layers * (12 * width**2 + 2 * width) + width
    assert parameter_count(build_model(config, 0)) == body + VOCABULARY * width
    untied = ModelConfig(kind="gpt", width=width, layers=layers, heads=heads, tied=False)
    assert parameter_count(build_model(untied, 0)) == body + 2 * VOCABULARY * width


@pytest.mark.parametrize("config", KINDS, ids=lambda config: config.kind)
def test_an_untrained_model_knows_nothing(config: ModelConfig) -> None:
    inputs = _inputs(config.kind, 64)
    classes = VOCABULARY if config.kind == "gpt" else CLASSES
    shape = inputs.shape if config.kind == "gpt" else (64,)
    targets = torch.randint(classes, shape, generator=torch.Generator().manual_seed(4))
    loss = loss_sum(build_model(config, 0)(inputs), targets) / targets.numel()
    # Logits of variance v add about v / 2; a classifier's features have size 1 and its head's weights make v 1/3.
    assert loss.item() == pytest.approx(math.log(classes), rel=0.03 if config.kind == "gpt" else 0.08)


@pytest.mark.parametrize("config", KINDS, ids=lambda config: config.kind)
def test_no_samples_give_no_loss_and_gradients_of_zero(config: ModelConfig) -> None:
    model = build_model(config, 0)
    inputs = _inputs(config.kind, 2)[:0]
    targets = torch.empty(inputs.shape if config.kind == "gpt" else (0,), dtype=torch.int64)
    loss = loss_sum(model(inputs), targets)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_a_block_is_torchs_own_encoder_layer_with_rms_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rotary positions set aside: torch has no module with them."""
    width, heads, length = 24, 3, 9
    torch.manual_seed(0)
    block = Block(width, heads, dropout=0.0)
    reference = nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True, bias=False
    )
    reference.norm1, reference.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
    attention = block.attention
    with torch.no_grad():
        reference.self_attn.in_proj_weight.copy_(
            torch.cat([attention.q.weight, attention.k.weight, attention.v.weight])
        )
        reference.self_attn.out_proj.weight.copy_(attention.o.weight)
        reference.linear1.weight.copy_(block.mlp.up.weight)
        reference.linear2.weight.copy_(block.mlp.down.weight)
        for own, theirs in ((block.attention_norm, reference.norm1), (block.mlp_norm, reference.norm2)):
            own.weight.uniform_(0.5, 1.5)
            theirs.weight.copy_(own.weight)
    monkeypatch.setattr(gpt, "rotate", lambda x: x)
    x = torch.randn(2, length, width)
    mask = nn.Transformer.generate_square_subsequent_mask(length)
    torch.testing.assert_close(block(x), reference(x, src_mask=mask, is_causal=True))


def test_rotate_is_multiplication_by_complex_numbers_of_length_one() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 7, 10)
    planes = torch.complex(x[..., :5], x[..., 5:])
    angles = torch.outer(torch.arange(7.0), 10_000.0 ** -(torch.arange(5) / 5))
    turned = planes * torch.polar(torch.ones_like(angles), angles)
    torch.testing.assert_close(rotate(x), torch.cat([turned.real, turned.imag], dim=-1))
    assert rotate(x.bfloat16()).dtype == torch.bfloat16


def test_rotated_products_depend_on_the_distance_alone() -> None:
    torch.manual_seed(0)
    q, k = (rotate(torch.randn(8).expand(1, 1, 20, 8))[0, 0] for _ in range(2))
    products = q @ k.T
    for distance in range(-5, 6):
        torch.testing.assert_close(
            products.diagonal(distance), products.diagonal(distance)[0].expand(20 - abs(distance))
        )
    assert products[0].std() > 0.1


def test_later_tokens_do_not_change_earlier_logits() -> None:
    model = build_model(SMALL, 0)
    tokens = _inputs("gpt", 2)
    logits = model(tokens)
    for changed in range(1, tokens.shape[1]):
        others = tokens.clone()
        others[:, changed] = (others[:, changed] + 1) % VOCABULARY
        moved = (model(others) - logits).abs().amax(dim=(0, 2))
        assert not moved[:changed].any()
        assert (moved[changed:] > 0).all()  # and every later one sees the change


def test_order_of_tokens_matters() -> None:
    model = build_model(SMALL, 0)
    ends = [model(torch.tensor([first]))[0, -1] for first in ([1, 2, 3, 9], [3, 1, 2, 9])]
    assert not torch.allclose(*ends, atol=1e-4)


def test_dropout_only_in_training() -> None:
    config = ModelConfig(kind="gpt", width=16, heads=2, dropout=0.5)
    model, without = build_model(config, 0), build_model(SMALL, 0)
    tokens = _inputs("gpt", 2)
    assert not model(tokens).equal(model(tokens))
    assert model.eval()(tokens).equal(without(tokens))


@pytest.mark.parametrize("config", KINDS, ids=lambda config: config.kind)
def test_stages_of_blocks_make_the_whole_with_the_same_names(config: ModelConfig) -> None:
    """What a pipeline does: each stage is the model without the parts that it does not hold."""
    whole, first, last = (build_model(config, 0) for _ in range(3))
    names = [name for _, name in blocks(whole)]
    assert names == ["0", "1"]
    del first.blocks["1"], last.blocks["0"]
    first.head, last.embedding = nn.Identity(), nn.Identity()
    first.norm = nn.Identity()
    inputs = _inputs(config.kind, 3)
    torch.testing.assert_close(last(first(inputs)), whole(inputs))
    parts = {**first.state_dict(), **last.state_dict()}
    assert parts.keys() == whole.state_dict().keys()
    assert {"blocks.0", "blocks.1"} == {".".join(name.split(".")[:2]) for name in parts if "blocks" in name}


def test_loss_is_the_sum_over_counted_targets() -> None:
    torch.manual_seed(0)
    outputs = torch.randn(3, 4, 7)
    targets = torch.randint(7, (3, 4))
    targets[0, 2:] = targets[2, 1:] = IGNORED
    by_hand = sum(
        -outputs[b, t].double().softmax(0)[targets[b, t]].log().item()
        for b in range(3)
        for t in range(4)
        if targets[b, t] != IGNORED
    )
    assert loss_sum(outputs, targets).item() == pytest.approx(by_hand)
    assert loss_sum(outputs, torch.full((3, 4), IGNORED)).item() == 0
    images, labels = outputs[:, 0], targets[:, 0]
    torch.testing.assert_close(loss_sum(images, labels), 3 * cross_entropy(images, labels))


def test_loss_of_16_bit_outputs_is_summed_in_32() -> None:
    outputs = torch.zeros(1000, 10, dtype=torch.bfloat16)
    loss = loss_sum(outputs, torch.zeros(1000, dtype=torch.int64))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(1000 * math.log(10))  # bf16 has 8 significant bits: it would say 2304


def test_freeze_by_the_start_of_names() -> None:
    model = build_model(ModelConfig(kind="gpt", width=16, heads=2, freeze=("blocks.0.", "norm")), 0)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, _ in model.named_parameters() if n.startswith(("blocks.0.", "norm"))}
    assert len(frozen) == 9
    assert parameter_count(model) == sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", ["embedding", "head"])
def test_a_tied_matrix_freezes_by_either_name(name: str) -> None:
    model = build_model(ModelConfig(kind="gpt", width=16, heads=2, freeze=(name,)), 0)
    assert isinstance(model, GPT)
    assert model.head.weight is model.embedding.weight
    assert not model.head.weight.requires_grad


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            ModelConfig(freeze=("block.0",)),
            r"'block.0', with which no parameter starts; there are blocks.0.1.weight",
        ),
        (ModelConfig(freeze=("blocks", "head")), "leaves nothing to train"),
        (
            ModelConfig(width=2**31 - 1),
            "A model of model.width 2147483647 and model.layers 2 cannot be made here",
        ),
    ],
)
def test_models_that_cannot_be(config: ModelConfig, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        build_model(config, 0)
