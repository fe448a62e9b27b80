"""The fusion module against plain loops written from the equations, in fp64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from faceclip.config import FusionConfig
from faceclip.model.fusion import DeformableAttention, DualCrossAttention, FaceLayer, Fuser, TextLayer

WIDTH, GRID, BATCH, TOKENS = 16, 12, 2, 7
CONFIG = FusionConfig(cross_width=32, text_feedforward=24, face_feedforward=40)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def randomized(module: torch.nn.Module, generator: torch.Generator) -> torch.nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return module.double().eval()


def random(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def bilinear(image: Tensor, x: float, y: float) -> Tensor:
    """Value of `image` [c, 12, 12] at (x, y) in patches, patch centres at half-integers, zero outside."""
    total = torch.zeros(image.shape[0], dtype=image.dtype)
    x, y = x - 0.5, y - 0.5
    for j in (math.floor(y), math.floor(y) + 1):
        for i in (math.floor(x), math.floor(x) + 1):
            if 0 <= i < GRID and 0 <= j < GRID:
                total += (1 - abs(x - i)) * (1 - abs(y - j)) * image[:, j, i]
    return total


def test_deformable_attention_reads_the_points_it_says(generator):
    attention = randomized(DeformableAttention(WIDTH, GRID, CONFIG, torch.nn), generator)
    query, value = random(generator, 1, GRID**2, WIDTH), random(generator, 1, GRID**2, WIDTH)
    with torch.no_grad():
        result = attention(query, value)[0]
        heads, points, channels = 8, 4, WIDTH // 8
        offsets = attention.sampling_offsets(query)[0].view(-1, heads, points, 2)
        weights = attention.attention_weights(query)[0].view(-1, heads, points).softmax(-1)
        images = attention.value_proj(value)[0].T.reshape(heads, channels, GRID, GRID)
        for patch in (0, 5, 77, 143):
            row, column = divmod(patch, GRID)
            read = [
                sum(
                    weights[patch, head, point]
                    * bilinear(
                        images[head],
                        column + 0.5 + offsets[patch, head, point, 0].item(),
                        row + 0.5 + offsets[patch, head, point, 1].item(),
                    )
                    for point in range(points)
                )
                for head in range(heads)
            ]
            expected = attention.output_proj(torch.cat(read))
            torch.testing.assert_close(result[patch], expected, rtol=1e-4, atol=1e-4)  # sampling itself is fp32


def test_deformable_attention_starts_by_looking_outward_in_eight_directions():
    attention = DeformableAttention(WIDTH, GRID, CONFIG, torch.nn)
    offsets = attention.sampling_offsets.bias.view(8, 4, 2)
    assert torch.allclose(offsets.abs().amax(-1), torch.tensor([1.0, 2, 3, 4]).expand(8, 4), atol=1e-5)
    assert len({(round(x), round(y)) for x, y in offsets[:, 0].tolist()}) == 8
    assert not attention.sampling_offsets.weight.any()
    assert not attention.attention_weights.weight.any()


def test_dual_cross_attention_is_one_logit_matrix_used_both_ways(generator):
    layer = randomized(DualCrossAttention(WIDTH, CONFIG, torch.nn), generator)
    face, text = random(generator, BATCH, GRID**2, WIDTH), random(generator, BATCH, TOKENS, WIDTH)
    with torch.no_grad():
        new_face, new_text = layer(face, text)
        v, t, attn = layer.layer_norm_v(face), layer.layer_norm_l(text), layer.attn
        size = CONFIG.cross_width // CONFIG.cross_heads
        for row in range(BATCH):
            to_face, to_text = [], []
            for head in range(CONFIG.cross_heads):
                part = slice(head * size, (head + 1) * size)
                logits = (attn.v_proj(v[row])[:, part] / math.sqrt(size)) @ attn.l_proj(t[row])[:, part].T
                to_face.append(logits.softmax(-1) @ attn.values_l_proj(t[row])[:, part])
                to_text.append(logits.T.softmax(-1) @ attn.values_v_proj(v[row])[:, part])
            expected_face = v[row] + layer.gamma_v * attn.out_v_proj(torch.cat(to_face, -1))
            expected_text = t[row] + layer.gamma_l * attn.out_l_proj(torch.cat(to_text, -1))
            torch.testing.assert_close(new_face[row], expected_face)
            torch.testing.assert_close(new_text[row], expected_text)


def test_text_layer_equals_torchs_own_post_norm_layer_with_positions_in_queries_and_keys(generator):
    layer = randomized(TextLayer(WIDTH, CONFIG, torch.nn), generator)
    oracle = torch.nn.MultiheadAttention(WIDTH, CONFIG.text_heads, batch_first=True).double().eval()
    oracle.load_state_dict(layer.self_attn.state_dict())
    x, positions = random(generator, BATCH, TOKENS, WIDTH), random(generator, TOKENS, WIDTH)
    with torch.no_grad():
        attended = layer.norm1(x + oracle(x + positions, x + positions, x)[0])
        expected = layer.norm2(attended + layer.linear2(layer.linear1(attended).relu()))
        torch.testing.assert_close(layer(x, positions), expected)


@pytest.mark.parametrize("face_attention", ["deformable", "plain"])
def test_skipping_the_last_blocks_face_update_changes_nothing(generator, face_attention):
    config = FusionConfig(layers=2, cross_width=32, text_feedforward=24, face_feedforward=40, face_attention=face_attention)
    fuser = randomized(Fuser(WIDTH, GRID, config, torch.nn), generator)
    text, face = random(generator, BATCH, TOKENS, WIDTH), random(generator, BATCH, GRID**2, WIDTH)
    text_positions, face_positions = random(generator, TOKENS, WIDTH), random(generator, GRID**2, WIDTH)
    with torch.no_grad():
        result = fuser(text, text_positions, face, face_positions)
        blocks = fuser.encoder
        for cross, text_layer, face_layer in zip(blocks.fusion_layers, blocks.text_layers, blocks.layers, strict=True):
            face, text = cross(face, text)
            text = text_layer(text, text_positions)
            face = face_layer(face, face_positions)
    torch.testing.assert_close(result, text)


def test_dropout_acts_on_text_in_training_and_never_on_faces(generator):
    text_layer, face_layer = TextLayer(WIDTH, CONFIG, torch.nn), FaceLayer(WIDTH, GRID, CONFIG, torch.nn)
    text, face = random(generator, 1, TOKENS, WIDTH).float(), random(generator, 1, GRID**2, WIDTH).float()
    for layer in (text_layer, face_layer):
        layer.train()
    assert not torch.equal(text_layer(text, torch.zeros(TOKENS, WIDTH)), text_layer(text, torch.zeros(TOKENS, WIDTH)))
    assert torch.equal(face_layer(face, torch.zeros(GRID**2, WIDTH)), face_layer(face, torch.zeros(GRID**2, WIDTH)))
    text_layer.eval()
    assert torch.equal(text_layer(text, torch.zeros(TOKENS, WIDTH)), text_layer(text, torch.zeros(TOKENS, WIDTH)))


def test_gradients_reach_every_trained_weight_of_the_fusion_module(generator):
    config = FusionConfig(layers=2, cross_width=32, text_feedforward=24, face_feedforward=40)
    fuser = Fuser(WIDTH, GRID, config, torch.nn)
    text, face = random(generator, 1, TOKENS, WIDTH).float(), random(generator, 1, GRID**2, WIDTH).float()
    fuser(text, torch.zeros(TOKENS, WIDTH), face, torch.zeros(GRID**2, WIDTH)).square().sum().backward()
    unused = {name for name, parameter in fuser.named_parameters() if parameter.grad is None}
    last_face = {name for name in unused if name.startswith(("encoder.layers.1.", "encoder.fusion_layers.1."))}
    assert unused - last_face == {"enc_output.weight", "enc_output.bias", "enc_output_norm.weight", "enc_output_norm.bias"}
    assert not any("text_layers" in name or "fusion_layers.0" in name for name in unused)
