"""The towers against well-known implementations with the same weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from faceclip.config import FaceTowerConfig, TextTowerConfig
from faceclip.model.face_tower import FaceTower
from faceclip.model.text_tower import TextTower


@pytest.mark.parametrize(("activation", "quick"), [("quick_gelu", True), ("gelu", False)])
def test_text_tower_equals_open_clips(activation, quick):
    from open_clip.model import CLIPTextCfg, _build_text_tower

    torch.manual_seed(0)
    config = CLIPTextCfg(width=32, layers=3, heads=4, context_length=77, vocab_size=49408)
    oracle = _build_text_tower(32, config, quick_gelu=quick).eval()
    tower = TextTower(TextTowerConfig(32, layers=3, heads=4, activation=activation)).eval()
    tower.load_state_dict({name: t for name, t in oracle.state_dict().items() if name != "attn_mask"})
    ids = torch.zeros(2, 77, dtype=torch.int64)
    ids[0, :5] = torch.tensor([49406, 320, 1125, 539, 49407])
    ids[1, :77] = torch.randint(300, 40000, (77,))
    ids[1, 0], ids[1, 76] = 49406, 49407
    with torch.no_grad():
        hidden = tower.encode_tokens(tower.token_embedding(ids))
        feature = tower.pool(hidden, ids) @ tower.text_projection
        torch.testing.assert_close(feature, oracle(ids), rtol=1e-4, atol=1e-5)


def test_pooling_takes_the_first_end_of_text():
    hidden = torch.arange(6.0).view(1, 6, 1)
    ids = torch.tensor([[49406, 5, 49407, 49407, 0, 0]])
    assert TextTower.pool(hidden, ids).item() == 2


def test_face_tower_block_equals_the_equations():
    torch.manual_seed(0)
    tower = FaceTower(FaceTowerConfig(width=32, layers=1, heads=4, classes=16)).eval()
    faces = torch.rand(2, 3, 448, 448)
    with torch.no_grad():
        # Bilinear by a factor of 4 without antialias reads the mean of the middle 2 x 2 of every 4 x 4 pixels.
        blocks = faces.unfold(2, 4, 4).unfold(3, 4, 4)
        small = blocks[..., 1:3, 1:3].mean((-1, -2))
        x = F.conv2d(small, tower.patch_embed.proj.weight, tower.patch_embed.proj.bias, stride=9).flatten(2).mT + tower.pos_embed
        block, oracle = tower.blocks[0], torch.nn.MultiheadAttention(32, 4, batch_first=True).eval()
        oracle.in_proj_weight.copy_(block.attn.qkv.weight)
        oracle.out_proj.load_state_dict(block.attn.proj.state_dict())
        normed = block.norm1(x)
        x = x + oracle(normed, normed, normed)[0]
        x = x + block.mlp.fc2(block.mlp.fc1(block.norm2(x)).clamp(0, 6))
        class_token, patch_tokens = tower(faces)
    torch.testing.assert_close(patch_tokens, tower.norm(x), rtol=1e-4, atol=1e-5)
    assert class_token.shape == (2, 16)


def test_face_tower_sees_only_the_first_108_of_112_pixels():
    torch.manual_seed(0)
    tower = FaceTower(FaceTowerConfig(width=32, layers=1, heads=4, classes=16)).eval()
    faces = torch.rand(1, 3, 448, 448)
    edge, inside = faces.clone(), faces.clone()
    edge[:, :, :, 4 * 108 :] = 0
    inside[:, :, :, 4 * 107 :] = 0
    with torch.no_grad():
        assert torch.equal(tower(edge)[1], tower(faces)[1])
        assert not torch.equal(tower(inside)[1], tower(faces)[1])


def test_batch_norm_stays_in_eval_mode_when_the_tower_trains():
    torch.manual_seed(0)
    tower = FaceTower(FaceTowerConfig(width=32, layers=1, heads=4, classes=16)).train()
    faces = torch.rand(3, 3, 448, 448)
    alone, together = tower(faces[:1])[0], tower(faces)[0]
    torch.testing.assert_close(alone, together[:1], rtol=1e-4, atol=1e-5)
    assert tower.feature[1].num_batches_tracked == 0
