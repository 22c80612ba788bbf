"""Folding batch norms: both spellings of a pair, and what must stay as it is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from keepsight.nn.fuse import fold_batch_norms


class Residual(nn.Module):
    """Named as torchvision's ResNet names its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.BatchNorm2d(4, affine=False)
        self.downsample = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4, eps=0.1))

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())) + self.downsample(x)


def with_statistics(net: nn.Module) -> nn.Module:
    """Batch norms that do something, from a few training passes."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.normal_(module.bias)
    with torch.no_grad():
        for _ in range(3):
            net.train()(2 * torch.randn(4, 3, 8, 8) + 1)
    return net.eval()


def batch_norms(net: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in net.modules())


def test_named_pairs_and_sequential_pairs():
    net = with_statistics(nn.Sequential(Residual(), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2), nn.ReLU()))
    folded = fold_batch_norms(net)
    x = torch.randn(2, 3, 8, 8)
    assert batch_norms(net) == 4
    assert batch_norms(folded) == 0
    assert torch.allclose(net(x), folded(x), atol=1e-5)
    channels_last = folded.to(memory_format=torch.channels_last)
    assert torch.allclose(net(x), channels_last(x.to(memory_format=torch.channels_last)), atol=1e-5)


def test_a_batch_norm_that_follows_no_convolution_stays():
    net = with_statistics(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)))
    folded = fold_batch_norms(net)
    assert batch_norms(folded) == 2
    assert torch.equal(net(torch.ones(1, 3, 8, 8)), folded(torch.ones(1, 3, 8, 8)))


def test_a_batch_norm_without_running_statistics_stays():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
    assert batch_norms(fold_batch_norms(net)) == 1
