"""AdamW for weights kept in bf16 (paper: AnyPrecisionAdamW): Kahan compensation, second moment in fp32."""

# torch's own optimisers are made of the _foreach functions: one kernel for many small tensors.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

SLAB = 2**25  # elements updated together: their fp32 temporaries are freed before the next are made


class KahanAdamW(Optimizer):
    """AdamW whose bf16 weights follow the fp32 ones, at 12 bytes per weight with its gradient (plain fp32: 16).

    At the paper's learning rate, an update of a bf16 weight above 0.0078 is less than half its last bit, and
    lost. So each weight has a second bf16 number, `compensation`, with what rounding took away; weight +
    compensation is the real value. `exp_avg` is bf16; `exp_avg_sq` is fp32, since with beta2 = 0.999 a bf16 one
    can never decay. fp32 weights are updated by torch's own AdamW. Defaults are the paper's. `params` as for any
    torch optimiser. Raises ValueError for weights of another dtype, or settings out of range.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 2e-5,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ):
        if lr < 0 or eps < 0 or weight_decay < 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(
                f"lr, eps and weight_decay must not be negative and betas must lie in [0, 1); "
                f"found lr={lr}, eps={eps}, weight_decay={weight_decay}, betas={betas}."
            )
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's; raises ValueError for weights that are neither bf16 nor fp32 (or fp64)."""
        super().add_param_group(param_group)
        for param in self.param_groups[-1]["params"]:
            if param.dtype not in (torch.bfloat16, torch.float32, torch.float64):
                raise ValueError(
                    f"KahanAdamW trains weights in bfloat16 or float32; found {param.dtype} of shape {list(param.shape)}. "
                    "Convert the model first, for example model.to(torch.bfloat16)."
                )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update of every weight that has a gradient. Returns what `closure`, run first, returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            trained = [param for param in group["params"] if param.grad is not None]
            for param in trained:
                self._initialise(param)
            self._step_plain([param for param in trained if param.dtype != torch.bfloat16], group)
            compensated = [param for param in trained if param.dtype == torch.bfloat16]
            for slab in _slabs(piece for param in compensated for piece in self._pieces(param)):
                _step_compensated(slab, group)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, which would round every state to its weight's dtype: the second moment stays fp32."""
        super().load_state_dict(state_dict)
        ids = [i for group in state_dict["param_groups"] for i in group["params"]]
        params = [param for group in self.param_groups for param in group["params"]]
        for i, param in zip(ids, params, strict=True):
            if i in state_dict["state"] and param.dtype == torch.bfloat16:
                exact = state_dict["state"][i]["exp_avg_sq"].to(param.device, torch.float32, copy=True)
                self.state[param]["exp_avg_sq"] = exact

    def _initialise(self, param: Tensor) -> None:
        state = self.state[param]
        if state:
            return
        state["step"] = torch.tensor(0.0)
        state["exp_avg"] = torch.zeros_like(param)
        if param.dtype == torch.bfloat16:
            state["exp_avg_sq"] = torch.zeros_like(param, dtype=torch.float32)
            state["compensation"] = torch.zeros_like(param)
        else:
            state["exp_avg_sq"] = torch.zeros_like(param)

    def _states(self, params: list[Tensor], name: str) -> list[Tensor]:
        return [self.state[param][name] for param in params]

    def _step_plain(self, params: list[Tensor], group: dict[str, Any]) -> None:
        if not params:
            return
        beta1, beta2 = group["betas"]
        adamw(
            params,
            [param.grad for param in params],  # pyright: ignore[reportArgumentType]
            self._states(params, "exp_avg"),
            self._states(params, "exp_avg_sq"),
            [],
            self._states(params, "step"),
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _pieces(self, param: Tensor) -> Iterator[_Piece]:
        """The weight with its gradient and state, counted one step on, in views of at most SLAB elements (or one row)."""
        state, gradient = self.state[param], param.grad
        assert gradient is not None
        state["step"] += 1
        tensors = (param, gradient, state["exp_avg"], state["exp_avg_sq"], state["compensation"])
        count = -(-param.numel() // SLAB)
        if count <= 1:
            yield _Piece._make((*tensors, state["step"].item()))
            return
        for views in zip(*(tensor.tensor_split(count) for tensor in tensors), strict=True):
            yield _Piece._make((*views, state["step"].item()))


class _Piece(NamedTuple):
    """A run of bf16 weights, what belongs to them, and how many steps they have seen, this one included."""

    weight: Tensor
    gradient: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    compensation: Tensor
    step: float


def _slabs(pieces: Iterable[_Piece]) -> Iterator[list[_Piece]]:
    """The pieces in runs of at most SLAB elements on one device; every piece is in one."""
    slab: list[_Piece] = []
    size = 0
    for piece in pieces:
        if slab and (piece.weight.device != slab[0].weight.device or size + piece.weight.numel() > SLAB):
            yield slab
            slab, size = [], 0
        slab.append(piece)
        size += piece.weight.numel()
    if slab:
        yield slab


def _step_compensated(slab: list[_Piece], group: dict[str, Any]) -> None:
    """AdamW in fp32 on weight + compensation; the sum is stored as its bf16 and what that leaves over."""
    beta1, beta2 = group["betas"]
    params, grads, moments, squares, compensations, steps = (list(column) for column in zip(*slab, strict=True))

    grads = [grad.float() for grad in grads]
    update = [moment.float() for moment in moments]
    torch._foreach_lerp_(update, grads, 1 - beta1)
    torch._foreach_copy_(moments, update)
    torch._foreach_mul_(squares, beta2)
    torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)

    root = torch._foreach_sqrt(squares)
    torch._foreach_div_(root, [(1 - beta2**step) ** 0.5 for step in steps])
    torch._foreach_add_(root, group["eps"])
    torch._foreach_mul_(update, [-group["lr"] / (1 - beta1**step) for step in steps])
    torch._foreach_div_(update, root)

    weights = [param.float() for param in params]
    torch._foreach_add_(update, weights, alpha=-group["lr"] * group["weight_decay"])
    torch._foreach_add_(update, [compensation.float() for compensation in compensations])
    torch._foreach_copy_(params, torch._foreach_add(weights, update))
    # What the rounded weight moved by is taken from what it was to move by: the rest waits for the next step.
    torch._foreach_sub_(weights, [param.float() for param in params])
    torch._foreach_add_(update, weights)
    torch._foreach_copy_(compensations, update)
