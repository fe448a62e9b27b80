from __future__ import annotations

import pytest
import torch

from faceclip.ops import FrozenBatchNorm, casting, computes_natively


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (casting.Linear(4, 3), torch.randn(2, 4)),
        (casting.Linear(4, 3, bias=False), torch.randn(2, 4)),
        (casting.LayerNorm(4), torch.randn(2, 4)),
        (casting.Conv2d(3, 4, 3, stride=2), torch.randn(1, 3, 9, 9)),
    ],
)
def test_casting_layers_compute_in_the_dtype_of_their_input(layer, x):
    plain = layer(x)
    layer.to(torch.bfloat16)
    result = layer(x)
    assert result.dtype == torch.float32
    assert torch.allclose(result, plain, atol=0.05)
    assert layer(x.bfloat16()).dtype == torch.bfloat16


def test_frozen_batch_norm_is_torchs_in_eval_mode_and_stays_there():
    oracle, frozen = torch.nn.BatchNorm1d(5, eps=2e-5), FrozenBatchNorm(5)
    oracle(torch.randn(50, 5) * 3 + 1)
    frozen.load_state_dict(oracle.state_dict())
    x = torch.randn(4, 5)
    torch.testing.assert_close(frozen.train()(x), oracle.eval()(x))
    assert frozen.state_dict().keys() == oracle.state_dict().keys()


def test_fp32_and_accelerators_compute_natively():
    assert computes_natively(torch.float32, torch.device("cpu"))
    assert computes_natively(torch.bfloat16, torch.device("cuda"))
    assert not computes_natively(torch.float8_e4m3fn, torch.device("cpu"))
