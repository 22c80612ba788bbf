"""Precise RoI pooling against numerical integration and gradient checks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from keepsight.nn.roi_pool import hat_integrals, pool_corners, prroi_pool


def slow_pool(features, corners, size, scale, steps=200):
    """Mean of the bilinear surface over each bin by the midpoint rule."""
    _, height, width = features.shape
    x0, y0, x1, y1 = (c * scale for c in corners.tolist())
    t = (torch.arange(steps, dtype=features.dtype) + 0.5) / steps
    ys = (y0 + (y1 - y0) * (torch.arange(size[0])[:, None] + t) / size[0]).flatten()
    xs = (x0 + (x1 - x0) * (torch.arange(size[1])[:, None] + t) / size[1]).flatten()
    hat_y = (1 - (ys[:, None] - torch.arange(height)).abs()).clamp(min=0).to(features.dtype)
    hat_x = (1 - (xs[:, None] - torch.arange(width)).abs()).clamp(min=0).to(features.dtype)
    surface = torch.einsum("yh,chw,xw->cyx", hat_y, features, hat_x)
    return surface.view(len(features), size[0], steps, size[1], steps).mean(dim=(2, 4))


box = st.tuples(st.floats(-60, 120), st.floats(-60, 120), st.floats(0.5, 90), st.floats(0.5, 90))


@settings(max_examples=30, deadline=None)
@given(box=box, size=st.tuples(st.integers(1, 4), st.integers(1, 4)))
def test_agrees_with_numerical_integration(box, size):
    features = torch.randn(2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    corners = torch.tensor([box[0], box[1], box[0] + box[2], box[1] + box[3]], dtype=torch.float64)
    got = pool_corners(features[None], corners[None, None], size, 1 / 16)[0, 0]
    assert torch.allclose(got, slow_pool(features, corners, size, 1 / 16), atol=2e-4)


def test_gradients_by_features_and_boxes():
    torch.manual_seed(0)
    features = torch.randn(2, 3, 6, 7, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor(
        [[0, 11.3, 17.9, 61.2, 55.5], [1, -20.2, -4.1, 30.6, 41.3], [1, 70.4, 60.3, 130.9, 140.7]], dtype=torch.float64
    )
    corners = rois[:, 1:].clone().requires_grad_()

    def pool(f, c):
        return prroi_pool(f, torch.cat((rois[:, :1], c), dim=1), (2, 3), 1 / 16)

    assert torch.autograd.gradcheck(pool, (features, corners), eps=1e-6, atol=1e-7)


@pytest.mark.parametrize("corners", [(5.0, 5.0, 5.0, 20.0), (5.0, 20.0, 30.0, 20.0), (30.0, 5.0, 10.0, 20.0)])
def test_boxes_without_area_give_zeros_and_no_gradient(corners):
    features = torch.ones(1, 2, 4, 4, requires_grad=True)
    boxes = torch.tensor([[corners]], requires_grad=True)
    out = pool_corners(features, boxes, (3, 3), 1 / 8)
    by_features, by_boxes = torch.autograd.grad(out.sum(), (features, boxes))
    assert out.abs().max() == 0
    assert by_features.abs().max() == 0
    assert by_boxes.abs().max() == 0


def test_integrals_of_a_constant_map_are_the_bin_widths():
    start, end = torch.tensor([2.25], dtype=torch.float64), torch.tensor([7.5], dtype=torch.float64)
    sums = hat_integrals(start, end, 3, 12).sum(-1)
    assert torch.allclose(sums, torch.full_like(sums, 5.25 / 3))


@pytest.mark.parametrize(
    "boxes",
    [
        [(20.0, 16.0, 44.0, 40.0), (24.0, 8.0, 40.0, 56.0)],  # touch a part of the map
        [(-90.0, -50.0, -20.0, -9.0)], [(300.0, 20.0, 400.0, 30.0)],  # touch none of it
        [(-1e9, -1e9, 1e9, 1e9), (8.0, 8.0, 16.0, 16.0)], [],
    ],
)  # fmt: skip
def test_cells_that_no_box_touches_do_not_count(boxes):
    features = torch.randn(1, 3, 9, 7, dtype=torch.float64, requires_grad=True)
    corners = torch.tensor(boxes, dtype=torch.float64).view(1, -1, 4)
    got = pool_corners(features, corners, (2, 3), 1 / 8)
    x0, y0, x1, y1 = (corners[0] / 8).unbind(-1)
    along_y, along_x = hat_integrals(y0, y1, 2, 9), hat_integrals(x0, x1, 3, 7)  # of the whole map
    area = ((x1 - x0) * (y1 - y0) / 6)[:, None, None, None]
    want = torch.einsum("pyh,chw,pxw->pcyx", along_y, features[0], along_x) / area
    assert torch.allclose(got[0], want)
    if boxes:
        got.sum().backward()
        assert torch.isfinite(features.grad).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_broken_boxes_leave_the_others_alone(bad):
    features = torch.randn(1, 3, 9, 7)
    good = [20.0, 16.0, 44.0, 40.0]
    both = pool_corners(features, torch.tensor([[good, [bad, 0.0, 8.0, bad]]]), (2, 2), 1 / 8)
    alone = pool_corners(features, torch.tensor([[good]]), (2, 2), 1 / 8)
    assert torch.allclose(both[:, 0], alone[:, 0], atol=1e-6)


def test_a_table_of_rois_keeps_its_order():
    features = torch.randn(3, 2, 8, 8)
    rois = torch.tensor(
        [[2, 0, 0, 30, 30], [0, 5, 5, 40, 44], [2, 10, 3, 20, 60], [1, 0, 0, 16, 16]], dtype=torch.float32
    )
    got = prroi_pool(features, rois, (2, 2), 1 / 8)
    for i, roi in enumerate(rois):
        alone = pool_corners(features[int(roi[0])][None], roi[None, None, 1:], (2, 2), 1 / 8)[0, 0]
        assert torch.allclose(got[i], alone, atol=1e-6)
