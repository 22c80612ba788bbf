"""KeepTrack's equations one by one: the spec's worked examples, plain re-computations, and inputs at the limits."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from keepsight.errors import InputError
from keepsight.nn.association import (
    AssociationConfig,
    Attention,
    CandidateMatcher,
    Candidates,
    DescriptorExtractor,
    ScorePositionEncoder,
    SetNorm,
    double_softmax,
    find_candidates,
    fold_set_norms,
    image_points,
    log_sinkhorn,
    mutual_matches,
    normalise_points,
    with_bins,
)

SIZE = (480, 640)


def some_candidates(count: int, seed: int, channels: int = 256, batch: int = 1, **changes) -> Candidates:
    g = torch.Generator().manual_seed(seed)
    made = {
        "descriptors": torch.randn(batch, count, channels, generator=g, dtype=torch.float64),
        "points": torch.rand(batch, count, 2, generator=g, dtype=torch.float64) * 400,
        "scores": torch.rand(batch, count, generator=g, dtype=torch.float64),
    }
    return Candidates(**(made | changes))


def small_matcher(seed: int = 0, **changes) -> CandidateMatcher:
    """Narrow, float64, with batch norms that do something."""
    torch.manual_seed(seed)
    net = CandidateMatcher(
        AssociationConfig(**({"descriptor_channels": 16, "encoder_channels": (8, 12)} | changes))
    ).double()
    for m in net.modules():
        if isinstance(m, nn.BatchNorm1d):
            m.running_mean.normal_(0, 0.3)
            m.running_var.uniform_(0.5, 2)
            nn.init.normal_(m.bias)
        for parameter in m.parameters(recurse=False):
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=1.5 / math.sqrt(parameter.shape[1]))
    return net.eval().requires_grad_(False)


# --- candidates -------------------------------------------------------------------------------------------------------


def test_candidates_of_the_specs_example():
    scores = torch.zeros(23, 23)
    example = {(5, 5): 0.3, (5, 7): 0.3, (0, 0): 0.06, (20, 20): 0.05, (10, 10): 0.2, (10, 13): 0.9}
    for cell, value in example.items():
        scores[cell] = value
    cells, found = find_candidates(scores, 0.05)
    assert cells.tolist() == [[10, 13], [5, 5], [5, 7], [10, 10], [0, 0]]
    assert cells.dtype == torch.int64
    assert found.tolist() == pytest.approx([0.9, 0.3, 0.3, 0.2, 0.06])


def test_candidates_at_the_limits():
    def count(scores: torch.Tensor, threshold: float = 0.05) -> int:
        cells, found = find_candidates(scores, threshold)
        assert cells.shape == (len(found), 2)
        return len(found)

    assert count(torch.full((23, 23), 0.04)) == 0
    assert count(torch.full((23, 23), 0.3)) == 23 * 23  # a flat map: every cell is its neighbourhood's maximum
    assert count(torch.full((23, 23), math.nan)) == 0
    assert count(torch.full((9, 9), -2.0), -3.0) == 81  # outside the map is -∞, not 0
    assert count(torch.rand(23, 23), 1.0) == 0
    holes = torch.zeros(9, 9)
    holes[4, 4], holes[4, 5], holes[0, 0] = 0.5, math.nan, math.nan
    assert find_candidates(holes, 0.05)[0].tolist() == [[4, 4]]  # NaN hides no neighbour
    with pytest.raises(InputError, match="one score map"):
        find_candidates(torch.zeros(1, 9, 9), 0.05)


def test_a_score_at_the_threshold_is_one_where_it_is_included():
    scores = torch.zeros(23, 23)
    scores[5, 5] = scores[9, 9] = 0.3
    assert len(find_candidates(scores, 0.3)[1]) == 0
    assert find_candidates(scores, 0.3, included=True)[0].tolist() == [[5, 5], [9, 9]]


def test_a_larger_score_within_two_cells_rules_one_out():
    scores = torch.zeros(23, 23)
    scores[5, 5], scores[5, 7], scores[5, 10] = 0.5, 0.3, 0.4
    assert find_candidates(scores, 0.05)[0].tolist() == [[5, 5], [5, 10]]
    assert find_candidates(scores, 0.05, window=3)[0].tolist() == [[5, 5], [5, 10], [5, 7]]


def test_equals_come_in_row_major_order():
    scores = torch.zeros(30, 30)
    scores[::6, ::6] = 0.4
    cells, _ = find_candidates(scores, 0.05)
    assert cells.tolist() == [[r, c] for r in range(0, 30, 6) for c in range(0, 30, 6)]


# --- descriptors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(22, 22), (7, 5), (2, 3)])
def test_descriptors_are_those_of_the_convolution(height, width):
    """At every cell, the borders too."""
    torch.manual_seed(0)
    net = DescriptorExtractor(6, 8).double().requires_grad_(False)
    features = torch.randn(2, 6, height, width, dtype=torch.float64)
    rows, columns = height + 1, width + 1
    cells = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).expand(2, -1, -1)
    want = net.conv(features)  # (2, 8, F + 1, F' + 1)
    assert want.shape[-2:] == (rows, columns)
    for memory in (torch.contiguous_format, torch.channels_last):
        got = net(features.contiguous(memory_format=memory), cells)
        torch.testing.assert_close(got, want.flatten(2).mT, rtol=0, atol=1e-13)


def test_descriptors_of_each_frame_of_a_batch():
    torch.manual_seed(0)
    net = DescriptorExtractor(6, 8).double().requires_grad_(False)
    features = torch.randn(3, 6, 9, 9, dtype=torch.float64)
    cells = torch.randint(0, 10, (3, 4, 2))
    cells[0] = torch.tensor([[0, 0], [9, 9], [0, 9], [9, 0]])
    want = net.conv(features)
    for frame, (row, column) in [(b, c) for b in range(3) for c in cells[b].unbind()]:
        n = int((cells[frame] == torch.stack((row, column))).all(1).nonzero()[0])
        torch.testing.assert_close(net(features, cells)[frame, n], want[frame, :, row, column], rtol=0, atol=1e-13)


def test_what_lies_outside_the_map_is_zero_whatever_the_border_holds():
    net = DescriptorExtractor(2, 4).requires_grad_(False)
    features = torch.zeros(1, 2, 6, 6)
    features[..., 2, 2] = math.nan  # inside the patch of (4, 4) but not of (0, 0)
    assert net(features, torch.tensor([[[0, 0]]])).isfinite().all()
    assert net(features, torch.tensor([[[4, 4]]])).isnan().any()


def test_no_candidates_no_descriptors_and_cells_are_checked():
    net = DescriptorExtractor(6, 8)
    features = torch.randn(1, 6, 5, 7)
    assert net(features, torch.zeros(1, 0, 2, dtype=torch.int64)).shape == (1, 0, 8)
    for cell in ([6, 0], [0, 8], [-1, 0]):
        with pytest.raises(InputError, match="6 x 8"):
            net(features, torch.tensor([[cell]]))


# --- positions ----------------------------------------------------------------------------------------------------------


def test_points_of_the_specs_example():
    point = torch.tensor([[[100.0, 300.0]]])
    online = normalise_points(point, SIZE, swapped_centre=True)
    training = normalise_points(point, torch.tensor([SIZE]), swapped_centre=False)
    assert online.flatten().tolist() == pytest.approx([-0.4911, 0.1339], abs=5e-5)
    assert training.flatten().tolist() == pytest.approx([-0.3125, -0.0446], abs=5e-5)


def test_points_of_images_of_several_sizes():
    points, sizes = torch.rand(2, 3, 2) * 300, torch.tensor([[480.0, 640.0], [720.0, 300.0]])
    for swapped in (True, False):
        both = normalise_points(points, sizes, swapped_centre=swapped)
        for i in (0, 1):
            alone = normalise_points(points[i : i + 1], sizes[i], swapped_centre=swapped)
            torch.testing.assert_close(both[i : i + 1], alone, rtol=0, atol=0)


def test_the_search_areas_corners_are_the_first_and_last_cell():
    cells = torch.tensor([[0, 0], [22, 22], [11, 0]])
    assert image_points(cells, (10.0, 20.0, 100.0, 60.0), 23).tolist() == [[20, 10], [80, 110], [50, 10]]


# --- attention ----------------------------------------------------------------------------------------------------------


def plain_attention(net: Attention, x: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """One frame's messages by loops over heads: x (N, D) asks, source (N', D) answers."""
    (q, k, v) = (F.conv1d(s.T[None], p.weight, p.bias)[0] for s, p in zip((x, source, source), net.proj, strict=True))
    message = torch.zeros_like(q)  # (D, N)
    for head in range(4):
        rows = torch.arange(head, len(q), 4)
        weight = (q[rows].T @ k[rows] / math.sqrt(len(rows))).softmax(dim=1)  # (N, N')
        message[rows] = v[rows] @ weight.T
    return F.conv1d(message[None], net.merge.weight, net.merge.bias)[0].T


@pytest.mark.parametrize(("m", "n"), [(3, 5), (1, 1), (1, 6)])
def test_self_and_cross_attention(m, n):
    net = small_matcher().gnn.layers[0].update.attn
    x = torch.randn(1, m + n, 16, dtype=torch.float64)
    previous, current = x[0, :m], x[0, m:]
    same = torch.zeros(m + n, m + n, dtype=torch.bool)
    same[:m, :m] = same[m:, m:] = True
    for sees, sources in ((same, (previous, current)), (~same, (current, previous))):
        want = torch.cat([plain_attention(net, a, b) for a, b in zip((previous, current), sources, strict=True)])
        torch.testing.assert_close(net(x, sees)[0], want, rtol=1e-12, atol=1e-12)


def test_queries_keys_and_values_start_as_the_merge_layer():
    torch.manual_seed(3)
    net = CandidateMatcher(AssociationConfig())
    for layer in net.gnn.layers:
        attention = layer.update.attn
        assert all(torch.equal(p.weight, attention.merge.weight) for p in attention.proj)
        assert all(torch.equal(p.bias, attention.merge.bias) for p in attention.proj)
        assert not layer.update.mlp[-1].bias.any()
        assert layer.update.mlp[0].bias.any()
    assert not net.kenc.encoder[-1].bias.any()
    assert not net.final_proj.bias.any()
    assert net.bin_score.item() == 0
    weight = net.final_proj.weight[..., 0]
    torch.testing.assert_close(weight @ weight.T, torch.eye(256), rtol=0, atol=1e-5)


# --- assignment ---------------------------------------------------------------------------------------------------------


def test_sinkhorn_of_the_specs_example():
    similarity = torch.tensor([[2, -1, 0.5], [0, 1, -2]])
    want = [[0.4854, 0.0333, 0.2047, 0.2766], [0.1085, 0.4068, 0.0278, 0.4569], [0.4061, 0.5599, 0.7675, 1.2665]]
    got = log_sinkhorn(similarity[None], 0.3, 10)[0].exp()
    torch.testing.assert_close(got, torch.tensor(want), rtol=0, atol=5.1e-5)


@settings(max_examples=40)
@given(st.integers(1, 15), st.integers(1, 15), st.integers(0, 10**6), st.floats(0.1, 4), st.floats(-3, 3))
def test_sinkhorns_marginals(m, n, seed, spread, bin_score):
    """Columns are met exactly after any number of iterations, rows by and by."""
    g = torch.Generator().manual_seed(seed)
    similarity = spread * torch.randn(2, m, n, generator=g, dtype=torch.float64)
    columns = torch.tensor([1.0] * n + [m], dtype=torch.float64).expand(2, -1)
    rows = torch.tensor([1.0] * m + [n], dtype=torch.float64).expand(2, -1)
    errors = []
    for iterations in (1, 10, 500):
        mass = log_sinkhorn(similarity, bin_score, iterations).exp()
        torch.testing.assert_close(mass.sum(dim=-2), columns, rtol=1e-12, atol=0)
        errors.append(float((mass.sum(dim=-1) - rows).abs().max()))
    assert errors[0] + 1e-12 >= errors[1]
    assert errors[2] < 1e-3


def test_sinkhorn_takes_large_similarities_and_half_precision():
    similarity = torch.tensor([[[300.0, -300], [-300, 300]]])
    mass = log_sinkhorn(similarity, 0.0, 100)[0].exp()  # (3, 3)
    torch.testing.assert_close(mass[:2, :2], torch.eye(2), rtol=0, atol=0.01)
    assert log_sinkhorn(similarity.bfloat16(), 0.0, 10).dtype == torch.float32


def test_double_softmax():
    similarity, bin_score = torch.randn(2, 3, 4, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
    scores = with_bins(similarity, bin_score)
    assert scores[:, 3].unique().tolist() == scores[:, :, 4].unique().tolist() == [0.7]
    got = double_softmax(similarity, bin_score)
    for i in range(3):
        for j in range(4):
            row, column = scores[:, i].softmax(dim=1)[:, j], scores[:, :, j].softmax(dim=1)[:, i]
            torch.testing.assert_close(got[:, i, j].exp(), (row * column).sqrt())
    torch.testing.assert_close(got[:, :3, 4], scores[:, :3].log_softmax(dim=2)[..., 4])
    torch.testing.assert_close(got[:, 3, :4], scores[..., :4].log_softmax(dim=1)[:, 3])
    assert got[:, 3, 4].tolist() == [0, 0]


# --- the network --------------------------------------------------------------------------------------------------------


def test_frames_can_change_places():
    """Similarity has no direction, and a candidate's number means nothing."""
    net = small_matcher()
    a, b = some_candidates(4, 1, 16), some_candidates(6, 2, 16)
    forth, back = net.similarity(a, b, SIZE), net.similarity(b, a, SIZE)
    torch.testing.assert_close(forth, back.mT, rtol=1e-10, atol=1e-12)
    order = torch.tensor([3, 0, 2, 1])
    shuffled = Candidates(a.descriptors[:, order], a.points[:, order], a.scores[:, order])
    torch.testing.assert_close(net.similarity(shuffled, b, SIZE), forth[:, order], rtol=1e-10, atol=1e-12)


def test_frequencies_tell_small_steps_apart():
    """Two places a hundredth of the image apart are nearly one place to (y, x), but not to the sines of it."""

    def unlike(frequencies: int) -> float:
        torch.manual_seed(0)
        encoder = ScorePositionEncoder((), 16, frequencies)
        near, far = (encoder(torch.tensor([[[0.1, y, 0.5]]]))[0, 0].detach() for y in (0.20, 0.21))
        return float((near - far).norm() / near.norm())

    assert unlike(6) > 5 * unlike(0)
    assert ScorePositionEncoder((8,), 16, 2).encoder[0].weight.shape[1] == 3 + 8


def test_a_batch_is_its_pairs():
    net = small_matcher()
    a, b = some_candidates(4, 1, 16, batch=3), some_candidates(6, 2, 16, batch=3)
    together = net(a, b, torch.tensor([SIZE, (300, 300), (720, 1280)]))
    for i, size in enumerate((SIZE, (300, 300), (720, 1280))):
        one = [Candidates(s.descriptors[i, None], s.points[i, None], s.scores[i, None]) for s in (a, b)]
        torch.testing.assert_close(together[i, None], net(*one, size), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("layers", [0, 1, 2, 9])
def test_every_layer_counts(layers):
    """The ablation's depths; self- and cross-attention differ, and skip_gnn equals no layers."""
    kinds = ("self", "cross") * layers
    net, a, b = small_matcher(gnn_layers=kinds), some_candidates(4, 1, 16), some_candidates(6, 2, 16)
    found = net(a, b, SIZE)
    assert len(net.gnn.layers) == 2 * layers
    assert found.isfinite().all()
    skipping = small_matcher(gnn_layers=kinds, skip_gnn=True)
    same = torch.equal(found, skipping(a, b, SIZE))
    assert same == (layers == 0)
    if layers:
        exchanged = small_matcher(gnn_layers=kinds[::-1])  # the same parameters
        assert (exchanged(a, b, SIZE) - found).abs().max() > 1e-3


def test_batch_norms_see_one_frame_at_a_time_in_training():
    """Against layers written with Conv1d and BatchNorm1d, called once per frame."""
    net = small_matcher(gnn_layers=("cross",)).train()
    a, b = some_candidates(4, 1, 16, batch=3), some_candidates(6, 2, 16, batch=3)
    z = net.embed(a, b, SIZE)
    layer = net.gnn.layers[0]
    out = net.gnn(z, 4)
    mlp = layer.update.mlp
    assert mlp[1].num_batches_tracked == 2
    assert net.kenc.encoder[1].num_batches_tracked == 2
    for mine, other in ((slice(0, 4), slice(4, 10)), (slice(4, 10), slice(0, 4))):
        message = torch.stack([plain_attention(layer.update.attn, x[mine], x[other]) for x in z])
        x = torch.cat([z[:, mine], message], dim=2).mT  # (B, 2D, N)
        x = F.conv1d(x, mlp[0].weight, mlp[0].bias)
        x = F.batch_norm(x, None, None, mlp[1].weight, mlp[1].bias, training=True).relu()
        x = F.conv1d(x, mlp[3].weight, mlp[3].bias)
        torch.testing.assert_close(out[:, mine], z[:, mine] + x.mT, rtol=1e-10, atol=1e-10)


def test_folded_norms_give_the_same_numbers():
    net = small_matcher()
    lean = fold_set_norms(net)
    assert not any(isinstance(m, SetNorm) for m in lean.modules())
    assert sum(isinstance(m, SetNorm) for m in net.modules()) == 2 + 4
    a, b = some_candidates(4, 1, 16), some_candidates(6, 2, 16)
    torch.testing.assert_close(lean(a, b, SIZE), net(a, b, SIZE), rtol=1e-10, atol=1e-12)


def test_gradients_reach_every_parameter():
    net = small_matcher().train().requires_grad_(True)
    net(some_candidates(5, 1, 16, batch=2), some_candidates(5, 2, 16, batch=2), SIZE)[:, :-1].sum().backward()
    dead = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # a constant before a batch norm is taken off again, and one added to all keys vanishes in the softmax
    assert all(n.endswith(("mlp.0.bias", "proj.1.bias")) or "encoder" in n for n in dead), dead


# --- inputs at the limits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalisation", ["sinkhorn", "double_softmax"])
@pytest.mark.parametrize(("m", "n"), [(0, 3), (3, 0), (0, 0)])
def test_no_candidates_on_a_side(m, n, normalisation):
    net = small_matcher(normalisation=normalisation)
    log_assignment = net(some_candidates(m, 1, 16), some_candidates(n, 2, 16), SIZE)
    assert log_assignment.shape == (1, m + 1, n + 1)
    assert not log_assignment.any()  # unmatched for certain
    found = mutual_matches(log_assignment)
    assert found.index0.tolist() == [[-1] * m]
    assert found.index1.tolist() == [[-1] * n]
    assert found.index0.dtype == found.index1.dtype == torch.int64
    assert found.probability0.tolist() == [[0] * m]
    assert found.probability1.tolist() == [[0] * n]


def test_hundreds_of_candidates():
    """A flat score map: equal descriptors, equal scores; none is anybody's in particular."""
    flat = {"descriptors": torch.ones(1, 400, 16, dtype=torch.float64), "scores": torch.full((1, 400), 0.3).double()}
    net = small_matcher()
    a, b = some_candidates(400, 1, 16, **flat), some_candidates(300, 2, 16)
    found = mutual_matches(net(a, b, SIZE))
    assert found.index0.shape == (1, 400)
    assert found.index1.shape == (1, 300)
    for i, j in enumerate(found.index0[0].tolist()):
        assert j == -1 or found.index1[0, j] == i


@pytest.mark.parametrize("what", ["descriptors", "points", "scores"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_no_number_matches_nothing_of_its_pair(what, value):
    net = small_matcher()
    a, b = some_candidates(4, 1, 16, batch=2), some_candidates(6, 2, 16, batch=2)
    clean = net(a, b, SIZE)
    getattr(b, what)[1, 2] = value
    log_assignment = net(a, b, SIZE)
    assert log_assignment[1].isnan().all()
    torch.testing.assert_close(log_assignment[0], clean[0])
    found = mutual_matches(log_assignment, 0.0)
    assert found.index0[1].tolist() == [-1] * 4
    assert found.probability1[1].tolist() == [0] * 6


# --- matches ------------------------------------------------------------------------------------------------------------


def test_only_mutual_matches_above_the_threshold():
    p = torch.tensor([[0.7, 0.1, 0.1], [0.6, 0.1, 0.2], [0.1, 0.15, 0.1], [0.1, 0.05, 0.21]])
    bins = torch.full((5, 4), 0.01)
    bins[:4, :3] = p
    found = mutual_matches(bins.log(), 0.2)
    # row 1 prefers column 0, which prefers row 0; row 2 and column 1 prefer each other below the threshold
    assert found.index0.tolist() == [0, -1, -1, 2]
    assert found.index1.tolist() == [0, -1, 3]
    assert found.probability0.tolist() == pytest.approx([0.7, 0, 0.15, 0.21])
    assert found.probability1.tolist() == pytest.approx([0.7, 0.15, 0.21])
    z = torch.tensor([[0.25, 0.5], [0.5, 0.5]]).log()
    exactly = mutual_matches(z, float(z[0, 0].exp()))
    assert exactly.index0.tolist() == exactly.index1.tolist() == [-1]


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 10**6), st.integers(1, 3))
def test_matches_are_one_to_one(m, n, seed, levels):
    """With few levels there are ties; first maxima win on both sides."""
    g = torch.Generator().manual_seed(seed)
    z = (torch.randint(1, levels + 1, (2, m + 1, n + 1), generator=g) / 4).log()
    found = mutual_matches(z, 0.2)
    for pair in range(2):
        forth, back = found.index0[pair].tolist(), found.index1[pair].tolist()
        inner = z[pair, :-1, :-1].exp()
        for i, j in enumerate(forth):
            if j >= 0:
                assert back[j] == i
                assert inner[i, j] == inner[i].max() == inner[:, j].max()
                assert found.probability0[pair, i] == found.probability1[pair, j] == inner[i, j]
        assert {j for j in forth if j >= 0} == {j for j, i in enumerate(back) if i >= 0}


# --- configuration ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gnn_layers": ("self", "corss")}, "cross"),
        ({"normalisation": "softmax"}, "double_softmax"),
        ({"descriptor_channels": 30}, "multiple of 4"),
        ({"sinkhorn_iterations": 0}, "1 or more"),
        ({"match_threshold": 20}, "probability"),
        ({"position_frequencies": -1}, "0 or more"),
    ],
)
def test_values_that_make_no_network(changes, words):
    with pytest.raises(InputError, match=words):
        AssociationConfig(**changes)
