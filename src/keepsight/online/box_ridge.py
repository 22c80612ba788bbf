"""prototype"""
from __future__ import annotations
import math
from dataclasses import dataclass
import torch
from torch import Tensor
from ..boxes import xywh_to_corners
from ..nn.roi_pool import pool_corners


@dataclass(frozen=True)
class RidgeConfig:
    boxes: int = 64
    sigma_pos: float = 0.12
    sigma_size: float = 0.18
    context: float = 1.4
    grid: int = 6
    grid_coarse: int = 3
    ridge: float = 0.3
    damp_pos: float = 0.5
    damp_size: float = 0.3
    limit: float = 0.3
    use_coarse: bool = True
    n_crops: int = 9
    steps: int = 1


@dataclass
class BoxRidge:
    mean: Tensor
    out_mean: Tensor
    weights: Tensor


def vectors(fine, coarse, boxes, cfg):
    """boxes (B,P,4) xywh -> (B*P, V)"""
    centre = boxes[..., :2] + 0.5 * boxes[..., 2:]
    size = boxes[..., 2:] * cfg.context
    corners = torch.cat((centre - size / 2, centre + size / 2), -1)
    f = pool_corners(fine, corners, (cfg.grid,) * 2, 1 / 8)
    v = f.flatten(2)
    v = v / v.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    if cfg.use_coarse:
        g = pool_corners(coarse, corners, (cfg.grid_coarse,) * 2, 1 / 16).flatten(2)
        g = g / g.norm(dim=-1, keepdim=True).clamp(min=1e-6)
        v = torch.cat((v, g), -1)
    return v.flatten(0, 1)


def fit(fine, coarse, truth, cfg, random):
    """truth (B,4)"""
    B = len(truth)
    u = random.uniform(2 * B * cfg.boxes * 4).view(2, B, cfg.boxes, 4).to(truth)
    normal = torch.sqrt(-2 * torch.log(1 - u[0])) * torch.cos(2 * math.pi * u[1])
    size = truth[:, None, 2:] * torch.exp(normal[..., 2:] * cfg.sigma_size)
    centre = truth[:, None, :2] + 0.5 * truth[:, None, 2:] + normal[..., :2] * cfg.sigma_pos * truth[:, None, 2:]
    boxes = torch.cat((centre - size / 2, size), -1)
    x = vectors(fine, coarse, boxes, cfg)
    tc = truth[:, None, :2] + 0.5 * truth[:, None, 2:]
    y = torch.cat(((tc - centre) / size, torch.log(truth[:, None, 2:] / size)), -1).flatten(0, 1)
    mean, ym = x.mean(0), y.mean(0)
    x, y = x - mean, y - ym
    gram = x @ x.T
    lam = cfg.ridge * gram.diagonal().mean()
    alpha = torch.linalg.solve(gram + lam * torch.eye(len(gram)), y)
    r = y - gram @ alpha
    return BoxRidge(mean, ym, x.T @ alpha), (y.std(0), r.std(0))


def predict(model, fine, coarse, box, cfg):
    """(4,) -> delta (4,)"""
    x = vectors(fine, coarse, box[None, None], cfg)
    return ((x - model.mean) @ model.weights + model.out_mean)[0]
