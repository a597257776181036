"""Convolutions of very small features in float32, where PyTorch's bfloat16 gradients on processors are not to be used.

The gradient of a 3^n convolution's weights in bfloat16 on a CPU (PyTorch 2.13, oneDNN, AVX512-BF16) is whatever lay in
memory where the depth is 2 (stride 1) or the width is 1 (stride 2): every gradient of such a layer was off by 5 % and
more, and some were no numbers.  From 3 voxels on all are right to 0.3 %.  Networks with four levels have such features
at 32 voxels, VTN at 128.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

SMALLEST = 3
_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)


def guard_small_features(network: nn.Module) -> None:
    """From now on convolutions of features with a side below :data:`SMALLEST` run in float32 under the CPU's autocast;
    they are the cheapest of all."""
    for module in network.modules():
        if isinstance(module, _CONVOLUTIONS):
            open_contexts: list[torch.autocast] = []
            module.register_forward_pre_hook(_Enter(open_contexts))
            module.register_forward_hook(_Leave(open_contexts), always_call=True)


class _Enter:
    def __init__(self, contexts: list[torch.autocast]) -> None:
        self.contexts = contexts

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor] | None:
        features = inputs[0]
        small = isinstance(features, Tensor) and min(features.shape[2:]) < SMALLEST
        if not small or features.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return None
        context = torch.autocast("cpu", enabled=False)
        context.__enter__()
        self.contexts.append(context)
        return (features.float(),)


class _Leave:
    def __init__(self, contexts: list[torch.autocast]) -> None:
        self.contexts = contexts

    def __call__(self, *_: Any) -> None:
        if self.contexts:
            self.contexts.pop().__exit__(None, None, None)
