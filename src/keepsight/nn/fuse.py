"""Faster copies of frozen networks, with the same numbers up to rounding.

:func:`fold_batch_norms` saves a pass over memory for each batch norm; :func:`fuse_convolutions` saves one for each activation,
and what an ordinary convolution on a CPU does to its weights at every call.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .precision import full_precision

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def fold_batch_norms(module: ModuleT) -> ModuleT:
    """A deep copy of ``module`` in evaluation mode, every batch norm behind a convolution folded into it.

    Two spellings of "behind" are known: neighbours in an ``nn.Sequential``, and attributes of one module whose names
    differ by ``conv`` and ``bn`` (``conv1``/``bn1``, torchvision's ResNet). A folded batch norm becomes
    ``nn.Identity``. Outputs agree up to rounding; ``module`` itself is not changed. A batch norm without running
    statistics stays as it is.

    Example: ``fast = fold_batch_norms(backbone).to(memory_format=torch.channels_last)``
    """
    folded = copy.deepcopy(module).eval()
    for parent in list(folded.modules()):
        for conv_name, bn_name in list(_pairs(parent)):
            conv, bn = getattr(parent, conv_name), getattr(parent, bn_name)
            conv.weight, conv.bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
            )
            setattr(parent, bn_name, nn.Identity())
    return folded


def to_channels_last(module: ModuleT) -> ModuleT:
    """``module`` with its 4-D parameters channels-last in memory, which convolutions on a CPU prefer."""
    for parameter in itertools.chain(module.parameters(), module.buffers()):
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return module


def _pairs(parent: nn.Module) -> Iterator[tuple[str, str]]:
    """Names of the direct children (convolution, batch norm) of ``parent`` that follow each other."""
    names = list(parent._modules)  # named_children would leave out a layer's second place
    if isinstance(parent, nn.Sequential):
        candidates = list(itertools.pairwise(names))
    else:
        candidates = [(name, name.replace("conv", "bn")) for name in names if "conv" in name]
    for conv_name, bn_name in candidates:
        conv, bn = getattr(parent, conv_name), getattr(parent, bn_name, None)
        if isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d) and bn.running_mean is not None:
            yield conv_name, bn_name


class FusedConv2d(nn.Conv2d):
    """A frozen convolution and its activation in one call of oneDNN, on weights that are already in oneDNN's order.

    That is the way of float32 images (B, C, H, W) of any size on a CPU, without gradients and autocast. Everything else goes
    through the two ordinary layers, and so does all where this PyTorch's operators, which are not public, are absent or
    compute something else. Shares the parameters of ``conv``; its copy of the weights is made again after the module
    was loaded, moved or copied, not after other changes of their values.
    """

    def __init__(self, conv: nn.Conv2d, activation: nn.Module | None = None) -> None:
        kernel, stride, padding, dilation = conv.kernel_size, conv.stride, conv.padding, conv.dilation
        super().__init__(
            conv.in_channels, conv.out_channels, kernel, stride, padding, dilation, conv.groups,  # type: ignore[arg-type]
            bias=False, padding_mode=conv.padding_mode, device="meta",
        )  # fmt: skip
        self.weight, self.bias = conv.weight, conv.bias
        self.activation = nn.Identity() if activation is None else activation
        self.train(conv.training)
        self._reordered: Tensor | None = None
        self._tried = False

    @property
    def fused(self) -> bool:
        """Whether inputs that suit it go the fast way; the first to ask has the weights reordered."""
        if self._reordered is None and not self._tried:
            self._reordered, self._tried = self._reorder(), True
        return self._reordered is not None

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        if self._suits(input) and self.fused:
            return self._in_one_call(input, self._reordered)
        return self._plain(input)

    def _plain(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(super().forward(x))
        return out

    def _in_one_call(self, x: Tensor, weight: Tensor | None) -> Tensor:
        out: Tensor = torch.ops.mkldnn._convolution_pointwise.default(
            x, weight, self.bias, self.padding, self.stride, self.dilation, self.groups, *_ACTIVATIONS[type(self.activation)], ""
        )  # fmt: skip
        return out

    def _suits(self, x: Tensor) -> bool:
        return (
            x.dtype is torch.float32 and x.is_cpu and x.dim() == 4
            and not (torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in self.parameters())))
            and not torch.is_autocast_enabled("cpu") and not torch.jit.is_tracing() and not torch.compiler.is_compiling()
        )  # fmt: skip

    def _reorder(self) -> Tensor | None:
        """The weights as oneDNN wants them, if they are for this way and a small image gives the same with them."""
        float_on_cpu = self.weight.dtype is torch.float32 and self.weight.is_cpu
        if not float_on_cpu or self.padding_mode != "zeros" or isinstance(self.padding, str):
            return None
        side = [d * (k - 1) + 2 * s for d, k, s in zip(self.dilation, self.kernel_size, self.stride, strict=True)]
        shape = (2, self.in_channels, *side)  # the operator takes it as a hint; other sizes are as right
        x = torch.arange(math.prod(shape), dtype=torch.float32).sin().view(shape)
        try:
            with torch.no_grad(), full_precision(x):
                plain = self._plain(x)
                weight: Tensor = torch.ops.mkldnn._reorder_convolution_weight.default(
                    self.weight, self.padding, self.stride, self.dilation, self.groups, shape
                )
                same = torch.allclose(
                    self._in_one_call(x, weight), plain, rtol=1e-4, atol=1e-4 * float(plain.abs().max())
                )
        except (AttributeError, RuntimeError, TypeError):  # absent, or of another form than here
            return None
        return weight if same else None

    def _forget(self) -> None:
        self._reordered, self._tried = None, False

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FusedConv2d:
        self._forget()
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._forget()
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reordered": None, "_tried": False}  # oneDNN's tensors cannot be copied


_ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.Identity: ("none", []), nn.ReLU: ("relu", []), nn.ReLU6: ("hardtanh", [0.0, 6.0])
}  # fmt: skip
"""oneDNN's name and parameters of each activation."""


def fuse_convolutions(module: ModuleT) -> ModuleT:
    """``module``, each plain convolution in it replaced by a :class:`FusedConv2d` under the same parameter names.

    A ReLU or ReLU6 behind it joins it and becomes ``nn.Identity``, where the two are neighbours in an ``nn.Sequential``, those
    inside it written out: none of these may be called in parts. Comes last, behind :func:`fold_batch_norms`, which
    makes neighbours of them, and :func:`to_channels_last`.

    Example: ``fast = fuse_convolutions(to_channels_last(fold_batch_norms(net).requires_grad_(False)))``
    """
    for parent in list(module.modules()):
        if isinstance(parent, nn.Sequential):
            places = [place for place in _written_out(parent) if not isinstance(getattr(*place), nn.Identity)]
            for first, second in itertools.pairwise(places):
                conv, activation = getattr(*first), getattr(*second)
                if type(conv) is nn.Conv2d and type(activation) in _ACTIVATIONS:
                    setattr(*first, FusedConv2d(conv, activation))
                    setattr(*second, nn.Identity())
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Conv2d:
                setattr(parent, name, FusedConv2d(child))
    return module


def _written_out(sequential: nn.Sequential) -> Iterator[tuple[nn.Module, str]]:
    """(parent, name) of the layers of ``sequential``, in order of the calls."""
    for name, layer in sequential._modules.items():  # named_children would leave out a layer's second place
        if isinstance(layer, nn.Sequential):
            yield from _written_out(layer)
        else:
            yield sequential, name
