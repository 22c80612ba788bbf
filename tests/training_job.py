"""A small network on made-up data: jobs for the loop's tests, and a program that runs one (also under torchrun).

python training_job.py OUT '{"config": {...LoopConfig...}, "job": {...tiny() options...}}'
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from keepsight.errors import VideoError
from keepsight.training.batch import Batch, Group, Losses
from keepsight.training.data import VALIDATION, Source
from keepsight.training.job import Job, LoopConfig
from keepsight.training.loop import train

SIDE = 8


@dataclass
class Squares:
    """Draws noise with a bright square; ``broken`` share of the draws raises as damaged files do."""

    broken: float = 0.0
    mistake_at: str = ""
    seconds: float = 0.0

    def draw(self, rng: np.random.Generator) -> Group:
        time.sleep(self.seconds)
        number = int(rng.integers(1000))
        if rng.random() < self.broken:
            raise VideoError(f"image {number}.jpg is cut off")
        image = rng.integers(0, 100, (SIDE, SIDE, 3), dtype=np.uint8)
        x, y = rng.integers(0, SIDE - 3, 2)
        image[y : y + 3, x : x + 3] = 255
        box = np.array([[x, y, 3, 3]], dtype=np.float64)
        return Group([image], [image], box, box, identity=f"squares/{number}")


@dataclass
class ToTensors:
    """``bad_index``: the sample of this many in the run's first draws becomes NaN."""

    nan_share: float = 0.0
    mistake: bool = False

    def __call__(self, group: Group, rng: np.random.Generator):
        if self.mistake:
            raise TypeError("a mistake in code")
        image = torch.from_numpy(group.test_images[0]).permute(2, 0, 1).float() / 255  # (3, H, W)
        image = image + 0.01 * torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32))
        if rng.random() < self.nan_share:
            image[0, 0, 0] = torch.nan
        return image, torch.from_numpy(group.test_boxes[0]).float(), group.identity


def collate(samples) -> Batch:
    images = torch.stack([s[0] for s in samples])[None]  # (1, B, 3, H, W)
    boxes = torch.stack([s[1] for s in samples])[None]  # (1, B, 4)
    return Batch(images, images, boxes, boxes, identities=[s[2] for s in samples])


class TinyNet(nn.Module):
    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU()
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(8 * 2 * 2, 4))
        self.unused = nn.Linear(2, 2)  # has a learning rate and never a gradient
        self.fixed = nn.Linear(2, 2)  # in no group

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images))  # (B, 4)


def objective(net: nn.Module, batch: Batch) -> Losses:
    difference = net(batch.test_images[0]).float() - batch.test_boxes[0] / SIDE
    loss = difference.square().mean()
    return Losses(loss, {"box": loss.detach()}, {"error": difference.detach().abs().mean()})


def overflowing(net: nn.Module, batch: Batch) -> Losses:
    """Loss is a number, its gradient is not."""
    given = objective(net, batch)
    zero = (net(batch.test_images[0]) * 0).sum()
    return Losses(given.total + torch.sqrt(zero.abs()), given.parts)


def train_mode(net: TinyNet, learn_norm: bool = False) -> None:
    net.train()
    if not learn_norm:
        net.body[1].eval()


def learning_rates(optimiser: torch.optim.Optimizer, epoch: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = group["initial_lr"] * 0.5 ** int(epoch)


def tiny(
    *,
    batch: int = 8,
    samples: int = 80,
    epochs: int = 3,
    dropout: float = 0.1,
    learn_norm: bool = False,
    clip: float | None = 0.5,
    seed: int = 0,
    validate: bool = True,
    sampler: dict | None = None,
    process: dict | None = None,
    loss: str = "objective",
    name: str = "tiny",
    lr: float = 1e-2,
    slow: float = 0.0,
) -> Job:
    torch.manual_seed(seed)
    net = TinyNet(dropout)
    groups = [
        {"params": list(net.body.parameters()), "lr": lr, "initial_lr": lr, "name": "body"},
        {
            "params": [*net.head.parameters(), *net.unused.parameters()],
            "lr": lr / 2,
            "initial_lr": lr / 2,
            "name": "head",
        },
    ]

    def mode(net: TinyNet) -> None:
        train_mode(net, learn_norm)
        time.sleep(slow)

    def source(purpose: int) -> Source:
        return Source(Squares(**(sampler or {})), ToTensors(**(process or {})), collate, seed, purpose)

    return Job(
        name, {"lr": lr, "optim": {"clip": clip, "dropout": dropout}}, net, globals()[loss], torch.optim.Adam(groups),
        learning_rates, mode, source(0), batch, samples, epochs, clip, source(VALIDATION) if validate else None, 16,
        header={"family": "tiny", "preset": name, "config": {"dropout": dropout}},
    )  # fmt: skip


def main(out: str, given: str) -> int:
    """Runs until the end, SIGTERM, or (``kill_at``) kill -9 after that many steps."""
    torch.set_num_threads(1)
    settings = json.loads(given)
    received = [0]
    signal.signal(signal.SIGTERM, lambda number, _: received.__setitem__(0, number))
    kill_at, sizes = settings.get("kill_at"), settings.get("limit_bytes")
    if sizes:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (sizes, sizes))

    def progress(status) -> None:
        if kill_at is not None and status.step >= kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if settings.get("signal_at") == status.step:
            os.kill(os.getpid(), signal.SIGTERM)

    config = LoopConfig(out=out, device="cpu", log_every=1, tensorboard=False, **settings.get("config", {}))
    outcome = train(tiny(**settings.get("job", {})), config, stop=lambda: received[0], progress=progress)
    return 128 + outcome.stopped_by if outcome.stopped_by else 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    import training_job  # under its own name, for the workers

    sys.exit(training_job.main(*sys.argv[1:]))
