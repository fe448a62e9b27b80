"""AdamW with both moments in 8 bits (arXiv 2110.02861), by bitsandbytes, dealt to the ranks as ours is."""

# bitsandbytes is optional, so what is said of its class here is checked by the tests alone.
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .config import ConfigError
from .optional import optional
from .sharding import Shards, decayed


def adamw_8bit(shards: Shards, **settings: Any) -> Any:
    """`ShardedAdamW` with other state: 8-bit moments for tensors of 4,096 values and more, fp32 for smaller ones.

    `settings` are lr, betas and weight_decay. Raises ConfigError where bitsandbytes is missing, and for weights
    in bf16: at the paper's rate most updates of those are less than half a last bit, and nothing keeps them here.
    """
    coarse = sorted({str(p.dtype) for p in shards.parameters.values() if p.dtype != torch.float32})
    if coarse:
        raise ConfigError(
            f"optimizer is adamw8bit, and the weights are trained in {', '.join(coarse)}, where it would lose most updates. "
            "Give --optimizer adamw, --dtype fp32, or --lora, whose matrices are in fp32."
        )
    bitsandbytes = optional("bitsandbytes", "--optimizer adamw8bit")
    return type("ShardedAdamW8bit", (_Sharded, bitsandbytes.optim.AdamW8bit), {})(shards, **settings)


class _Sharded:
    """Goes before bitsandbytes' AdamW8bit: each rank steps what it owns; all state is tensors, there from the start."""

    def __init__(self, shards: Shards, weight_decay: float, **settings: Any):
        super().__init__(decayed(shards, weight_decay), **settings)
        self.shards = shards
        self.initialized = True  # else the first step moves all states to the GPU, the counts of steps among them
        for place, group in enumerate(self.param_groups):
            for index, parameter in enumerate(group["params"]):
                self.init_state(group, parameter, place, index)
                self.state[parameter]["step"] = torch.tensor(0.0)

    def update_step(self, group: dict[str, Any], p: torch.Tensor, gindex: int, pindex: int) -> None:
        """One parameter's; bitsandbytes counts with an int, checkpoints with a tensor."""
        state = self.state[p]
        counted: torch.Tensor = state["step"]
        state["step"] = int(counted)
        super().update_step(group, p, gindex, pindex)
        state["step"] = counted.fill_(state["step"])

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of all weights; collective."""
        loss = super().step(closure)
        self.shards.share()
        return loss
