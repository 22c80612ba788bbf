"""ATOM's solver: closed-form products against autograd, conjugate gradients against linear algebra, Algorithm 1 written out."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from keepsight.errors import InputError
from keepsight.nn.correlation import Samples
from keepsight.nn.gauss_newton import (
    DIRECTIONS,
    AutogradProblem,
    ClassifierTargets,
    DescentConfig,
    FilterProblem,
    SearchState,
    SolverConfig,
    TwoLayerProblem,
    classify,
    conjugate_gradients,
    gradient_descent,
    minimise,
    mlu,
    project,
)

PRECISE = torch.float64


def column(*values: float, dtype: torch.dtype = PRECISE) -> tuple[Tensor]:
    return (torch.tensor(values, dtype=dtype),)


# --- the target classifier: closed form against autograd on residuals written with convolutions ------------------------------


class Classifier:
    """A random classifier problem in three forms; ``bend`` None is no activation."""

    def __init__(self, size, kernel, count, bend, dtype, zeros=False, channels=5, projected=3, seed=0) -> None:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape):
            return torch.randn(shape, generator=generator, dtype=PRECISE)

        maps, filters = normal(count, channels, *size), 0.3 * normal(1, projected, *kernel)
        projection = normal(projected, channels, 1, 1) / math.sqrt(channels)
        labels = torch.rand((count, *size), generator=generator, dtype=PRECISE)
        weights = torch.rand(count, generator=generator, dtype=PRECISE)
        if zeros:
            weights[::2] = 0
        made = (t.to(dtype) for t in (maps, filters, projection, labels, weights))
        self.maps, self.filters, self.projection, self.labels, self.weights = made
        self.bend, self.size, self.regularisation = bend, size, (0.1, 0.01)
        self.samples = Samples.from_maps(self.maps)
        self.targets = ClassifierTargets(self.labels, self.weights, bend)

    def _data(self, features: Tensor, filters: Tensor) -> Tensor:
        padding = filters.shape[-2] // 2, filters.shape[-1] // 2
        scores = F.conv2d(features, filters, padding=padding)[:, 0, : self.size[0], : self.size[1]]
        if self.bend is not None:
            scores = F.elu(F.leaky_relu(scores, 1 / self.bend), self.bend)
        return self.weights.sqrt()[:, None, None] * (scores - self.labels)

    def two_layers(self):
        """(closed form, autograd, variables)"""

        def residual(filters, projection):
            data = self._data(F.conv2d(self.maps, projection), filters)
            return data, math.sqrt(self.regularisation[0]) * filters, math.sqrt(self.regularisation[1]) * projection

        closed = TwoLayerProblem(self.samples, self.targets, self.regularisation)
        return closed, AutogradProblem(residual), (self.filters, self.projection)

    def filter_alone(self):
        features = F.conv2d(self.maps, self.projection)

        def residual(filters):
            return self._data(features, filters), math.sqrt(self.regularisation[0]) * filters

        projected = Samples(project(self.samples.cells, self.projection), self.size)
        closed = FilterProblem(projected, self.targets, self.regularisation[0])
        return closed, AutogradProblem(residual), (self.filters,)

    def both(self):
        return self.two_layers(), self.filter_alone()


def same(got, want, share):
    for g, w in zip(got, want, strict=True):
        assert g.shape == w.shape
        assert g.dtype == w.dtype
        assert float((g - w).abs().max()) <= share * max(float(w.abs().max()), 1e-12)


def directions(variables, seed=7):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(v.shape, generator=generator, dtype=PRECISE).to(v.dtype) for v in variables)


@settings(max_examples=50)
@given(
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    count=st.integers(1, 4),
    bend=st.sampled_from([None, 0.05, 0.5]),
    precise=st.booleans(),
    zeros=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_closed_form_equals_autograd(size, kernel, count, bend, precise, zeros, seed):
    dtype, share = (PRECISE, 1e-12) if precise else (torch.float32, 1e-5)
    for closed, automatic, variables in Classifier(size, kernel, count, bend, dtype, zeros, seed=seed).both():
        one, two = closed.linearise(variables), automatic.linearise(variables)
        assert float(one.loss) == pytest.approx(float(two.loss), rel=share)
        same(one.gradient(), two.gradient(), share)
        for direction in (directions(variables), variables):
            same(one.product(direction), two.product(direction), share)


def test_closed_form_in_the_published_size():
    """288-pixel crops: 18 × 18 cells, 64 channels, filter 4 × 4; float32."""
    problem = Classifier((18, 18), (4, 4), 6, 0.05, torch.float32, channels=64, projected=64)
    for closed, automatic, variables in problem.both():
        one, two = closed.linearise(variables), automatic.linearise(variables)
        same(one.gradient(), two.gradient(), 1e-5)
        same(one.product(directions(variables)), two.product(directions(variables)), 1e-5)


@pytest.mark.parametrize("bend", [None, 0.05])
@pytest.mark.parametrize("kernel", [(4, 4), (3, 3)])
def test_gradient_is_half_the_slope_of_the_loss(bend, kernel):
    for closed, _, variables in Classifier((6, 5), kernel, 3, bend, PRECISE).both():
        along, h = directions(variables), 1e-6
        ends = [closed.linearise(tuple(v + s * h * a for v, a in zip(variables, along, strict=True))) for s in (1, -1)]
        slope = float(ends[0].loss - ends[1].loss) / (2 * h)
        gradient = closed.linearise(variables).gradient()
        inner = sum(float((g * a).sum()) for g, a in zip(gradient, along, strict=True))
        assert 2 * inner == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("bend", [None, 0.05])
def test_product_is_symmetric_and_positive(bend):
    problem = Classifier((6, 5), (4, 3), 3, bend, PRECISE)
    for closed, _, variables in problem.both():
        linear = closed.linearise(variables)
        u, v = directions(variables, 1), directions(variables, 2)

        def dot(a, b):
            return sum(float((x * y).sum()) for x, y in zip(a, b, strict=True))

        assert dot(u, linear.product(v)) == pytest.approx(dot(v, linear.product(u)), rel=1e-11)
        regularised = sum(w * dot((d,), (d,)) for w, d in zip(problem.regularisation, u, strict=False))
        assert dot(u, linear.product(u)) > regularised


def test_mlu_and_its_slope():
    scores = torch.linspace(-1, 1, 101, dtype=PRECISE).requires_grad_()
    value, slope = mlu(scores, 0.05)
    want = torch.where(scores >= 0, scores, 0.05 * torch.expm1(scores / 0.05))
    assert torch.allclose(value, want, atol=1e-15)
    assert torch.allclose(slope, torch.autograd.grad(want.sum(), scores)[0])
    assert torch.equal(mlu(scores, None)[0], scores)
    assert (mlu(scores, None)[1] == 1).all()
    far = torch.tensor([-1e30, 1e30])
    assert mlu(far, 0.05)[0].tolist() == [pytest.approx(-0.05), pytest.approx(1e30)]


def test_scores_have_the_size_of_the_features():
    problem = Classifier((6, 5), (4, 4), 2, None, PRECISE)
    features = F.conv2d(problem.maps, problem.projection)
    projected = replace(problem.samples, cells=project(problem.samples.cells, problem.projection))
    assert torch.allclose(projected.cells, Samples.from_maps(features).cells)
    want = F.conv2d(features, problem.filters, padding=2)[:, 0, :6, :5]
    assert torch.allclose(classify(projected, problem.filters)[0], want)


def test_a_better_filter_by_either_problem():
    """Autograd and closed form take the same path, and the loss falls."""
    for closed, automatic, start in Classifier((6, 6), (4, 4), 4, 0.05, PRECISE).both():
        config = SolverConfig(3, 6, "fletcher_reeves", tuple(0.1 for _ in start))
        one, two = minimise(closed, start, config), minimise(automatic, start, config)
        same(one.variables, two.variables, 1e-8)
        assert one.losses == pytest.approx(two.losses, rel=1e-9)
        assert one.losses[-1] < 0.5 * one.losses[0]


# --- conjugate gradients and Gauss-Newton ------------------------------------------------------------------------------------


def linear_problem(rows=14, seed=0):
    """8 unknowns in three variables of shapes (2, 3), (1,) and (): (problem, start, solution (8,))."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(rows, 8, generator=generator, dtype=PRECISE)
    right = torch.randn(rows, generator=generator, dtype=PRECISE)
    start = tuple(torch.randn(shape, generator=generator, dtype=PRECISE) for shape in ((2, 3), (1,), ()))

    def residual(*variables):
        return matrix @ torch.cat([v.flatten() for v in variables]) - right

    return AutogradProblem(residual), start, torch.linalg.lstsq(matrix, right[:, None]).solution[:, 0]


def joined(variables):
    return torch.cat([v.flatten() for v in variables])


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("preconditioner", [None, (0.5, 2.0, 7.0)])
@pytest.mark.parametrize("standard_alpha", [True, False])
def test_linear_problems_take_as_many_iterations_as_unknowns(direction, preconditioner, standard_alpha):
    problem, start, want = linear_problem()
    config = SolverConfig(1, 8, direction, preconditioner, standard_alpha)
    found = minimise(problem, start, config)
    assert [v.shape for v in found.variables] == [v.shape for v in start]
    assert torch.allclose(joined(found.variables), want, atol=1e-8)
    assert found.residual_norms[-1] < 1e-8 * found.residual_norms[0]
    assert len(found.residual_norms) == 9
    fewer = minimise(problem, start, replace(config, cg_iterations=6))
    assert not torch.allclose(joined(fewer.variables), want, atol=1e-3)


def test_residual_norms_are_those_of_the_linear_system():
    problem, start, _ = linear_problem()
    config = SolverConfig(1, 4)
    found = minimise(problem, start, config)
    linear = problem.linearise(start)
    for k, norm in enumerate(found.residual_norms):
        change = conjugate_gradients(linear, replace(config, cg_iterations=k))[0]
        system = joined(linear.gradient()) + joined(linear.product(change))
        assert float(system.norm()) == pytest.approx(norm, rel=1e-9)


def test_preconditioner_matters_where_scales_differ():
    scales = torch.tensor([1e-2, 1.0, 1e2], dtype=PRECISE)
    problem = AutogradProblem(lambda a, b, c: scales * torch.stack((a, b, c)) - 1)
    start = tuple(torch.zeros((), dtype=PRECISE) for _ in range(3))
    plain = minimise(problem, start, SolverConfig(1, 1))
    helped = minimise(problem, start, SolverConfig(1, 1, preconditioner=tuple(float(s) ** 2 for s in scales)))
    assert torch.allclose(joined(helped.variables), 1 / scales)  # in one iteration
    assert helped.residual_norms[-1] < 1e-9 < plain.residual_norms[-1]


def rosenbrock(point: Tensor) -> Tensor:
    """Its chained form: minimum 0 at (1, …, 1)."""
    return torch.cat((10 * (point[1:] - point[:-1] ** 2), 1 - point[:-1]))


@pytest.mark.parametrize("start", [(-1.2, 1.0), (1.4, 0.8, 1.3, 1.2)])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_curved_valley(start, direction):
    found = minimise(AutogradProblem(rosenbrock), column(*start), SolverConfig(15, len(start), direction))
    assert torch.allclose(found.variables[0], torch.ones(len(start), dtype=PRECISE), atol=1e-6)
    assert found.losses[-1] < 1e-12 < found.losses[0]


def test_fit_with_a_remainder():
    """Residuals that do not vanish at the minimum: the gradient does."""
    times = torch.linspace(0, 3, 20, dtype=PRECISE)
    values = 2 * torch.exp(-0.7 * times) + 0.1 * torch.sin(20 * times)
    problem = AutogradProblem(lambda a, b: a * torch.exp(-b * times) - values)
    start = torch.ones((), dtype=PRECISE), torch.ones((), dtype=PRECISE)
    found = minimise(problem, start, SolverConfig.paper(12, 2))
    assert found.losses[-1] > 5e-3
    assert float(joined(problem.linearise(found.variables).gradient()).norm()) < 1e-9


def algorithm_1(residual, point: Tensor, gauss_newton_steps: int, iterations: int) -> list[Tensor]:
    """The paper's Algorithm 1, with the Jacobian as a matrix: the point after every iteration."""
    points = []
    for _ in range(gauss_newton_steps):
        jacobian = torch.autograd.functional.jacobian(residual, point)
        gradient = jacobian.T @ residual(point)
        change, direction, rho = torch.zeros_like(point), torch.zeros_like(point), torch.ones((), dtype=point.dtype)
        for _ in range(iterations):
            rho_before, rho = rho, gradient @ gradient
            direction = -gradient + rho / rho_before * direction
            product = jacobian.T @ (jacobian @ direction)
            alpha = rho / (direction @ product)
            gradient, change = gradient + alpha * product, change + alpha * direction
            points.append(point + change)
        point = point + change
    return points


def test_the_papers_algorithm():
    generator = torch.Generator().manual_seed(3)
    matrix = torch.randn(9, 6, generator=generator, dtype=PRECISE)

    def residual(point):
        return torch.tanh(matrix @ point) - 0.3

    start, seen = torch.randn(6, generator=generator, dtype=PRECISE), []
    observe = lambda calls, variables: seen.append((calls, variables[0]))  # noqa: E731
    minimise(AutogradProblem(residual), (start,), SolverConfig.paper(3, 4), observe=observe)
    want = algorithm_1(residual, start, 3, 4)
    # a linearisation is one BackProp call, an iteration two
    assert [calls for calls, _ in seen] == [0, 3, 5, 7, 9, 12, 14, 16, 18, 21, 23, 25, 27]
    assert torch.equal(seen[0][1], start)
    for (_, got), point in zip(seen[1:], want, strict=True):
        assert torch.allclose(got, point, rtol=1e-9, atol=1e-11)
    other = minimise(AutogradProblem(residual), (start,), SolverConfig(3, 4, "polak_ribiere"))
    assert torch.allclose(other.variables[0], want[-1], rtol=1e-6)  # the same formula where the system is linear


# --- directions kept between calls -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_nothing_forgotten_continues_where_the_last_call_stopped(direction):
    problem, start, want = linear_problem()
    config, state = SolverConfig(1, 4, direction, forgetting=1.0), SearchState()
    half = minimise(problem, start, config, state)
    whole = minimise(problem, start, replace(config, cg_iterations=8, forgetting=None))
    again = minimise(problem, half.variables, config, state)
    assert torch.allclose(joined(again.variables), want, atol=1e-8)
    assert again.residual_norms == pytest.approx(whole.residual_norms[4:], rel=1e-5, abs=1e-10)
    afresh = minimise(problem, half.variables, config, SearchState())
    assert not torch.allclose(joined(afresh.variables), want, atol=1e-3)


def test_forgetting_divides_the_kept_rho():
    problem, start, _ = linear_problem()
    config, state = SolverConfig(1, 3, "fletcher_reeves", forgetting=0.25), SearchState()
    half = minimise(problem, start, config, state)
    assert [d.shape for d in state.direction] == [v.shape for v in start]
    kept, rho = joined(state.direction), state.rho
    minimise(problem, half.variables, replace(config, cg_iterations=1), state)
    residual = -joined(problem.linearise(half.variables).gradient())
    beta = float(residual @ residual) / (rho / 0.25)
    assert torch.allclose(joined(state.direction), residual + beta * kept, rtol=1e-9)


@pytest.mark.parametrize("standard_alpha", [True, False])
def test_a_kept_direction_in_another_problem(standard_alpha):
    """Where the formulas part: β of Polak-Ribière, and the step length that is right for any direction."""
    (problem, start, _), (other, *_) = linear_problem(), linear_problem(seed=1)
    config, state = SolverConfig(1, 3, standard_alpha=standard_alpha, forgetting=0.5), SearchState()
    half = minimise(problem, start, config, state)
    kept, previous, rho = joined(state.direction), joined(state.previous), state.rho
    found = minimise(other, half.variables, replace(config, cg_iterations=1), state)
    residual = -joined(other.linearise(half.variables).gradient())
    beta = float(residual @ residual - residual @ previous) / (rho / 0.5)
    assert beta > 0
    direction = residual + beta * kept
    assert torch.allclose(joined(state.direction), direction, rtol=1e-9)
    # the slope along the direction is 0 at the end of a step of the right length
    slope = float(direction @ joined(other.linearise(found.variables).gradient()))
    assert (abs(slope) < 1e-9 * abs(float(direction @ residual))) != standard_alpha


def test_without_forgetting_no_state_is_used():
    problem, start, _ = linear_problem()
    plain = minimise(problem, start, SolverConfig(1, 3))
    state = SearchState([torch.ones_like(v) for v in start], [torch.ones_like(v) for v in start], 0.5)
    given = minimise(problem, start, SolverConfig(1, 3), state)
    assert torch.equal(joined(given.variables), joined(plain.variables))
    assert state.rho == 0.5
    assert (joined(state.direction) == 1).all()
    several = minimise(problem, start, SolverConfig(2, 3, forgetting=0.5), state)
    afresh = minimise(problem, start, SolverConfig(2, 3))
    assert torch.equal(joined(several.variables), joined(afresh.variables))
    assert state.rho == 0.5
    unowned = minimise(problem, start, SolverConfig(1, 3, forgetting=0.5))
    assert torch.equal(joined(unowned.variables), joined(plain.variables))


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, PRECISE])
def test_a_call_after_one_that_converged(direction, dtype):
    """ρ is then next to nothing: β would throw the next call out of finite numbers."""
    matrix = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=dtype)
    config, state = SolverConfig(1, 8, direction, forgetting=0.9), SearchState()
    for k in range(4):
        right = torch.tensor([1.0, 1000.0 * k], dtype=dtype)
        problem = AutogradProblem(lambda x, right=right: matrix @ x - right)
        found = minimise(problem, (torch.zeros(2, dtype=dtype),), config, state)
        assert torch.allclose(found.variables[0], torch.linalg.solve(matrix, right), rtol=1e-4)


# --- early stop, degenerate problems, bad input ------------------------------------------------------------------------------


def test_early_stop():
    problem, start, _ = linear_problem()
    whole = minimise(problem, start, SolverConfig(1, 8))
    part = minimise(problem, start, SolverConfig(1, 8, tolerance=1e-2))
    assert (whole.stopped, part.stopped) == ("iterations", "solved")
    n = len(part.residual_norms)
    assert 1 < n < 9
    assert part.residual_norms == whole.residual_norms[:n]
    assert part.residual_norms[-1] ** 2 <= 1e-2 * part.residual_norms[0] ** 2 < part.residual_norms[-2] ** 2


def test_solved_before_the_iterations_are_over():
    found = minimise(AutogradProblem(lambda x: x - 3), column(1.0, 2.0), SolverConfig(4, 10))
    assert found.variables[0].tolist() == [3, 3]
    assert found.stopped == "solved"
    assert found.losses == [5, 0, 0, 0]
    at_minimum = minimise(AutogradProblem(lambda x: x - 3), column(3.0), SolverConfig(1, 10))
    assert (at_minimum.stopped, at_minimum.residual_norms) == ("solved", [0])


@pytest.mark.parametrize(("steps", "iterations"), [(0, 5), (3, 0), (0, 0)])
def test_zero_steps_or_iterations_return_the_start(steps, iterations):
    start = column(1.0, 2.0)
    found = minimise(AutogradProblem(lambda x: x - 3), start, SolverConfig(steps, iterations))
    assert torch.equal(found.variables[0], start[0])
    assert (found.losses, found.residual_norms, found.stopped) == ([], [], "iterations")


def test_no_weights_and_no_regulariser():
    problem = Classifier((5, 5), (4, 4), 3, 0.05, PRECISE)
    nothing = ClassifierTargets(problem.labels, torch.zeros(3, dtype=PRECISE), 0.05)
    start = problem.filters, problem.projection
    found = minimise(TwoLayerProblem(problem.samples, nothing, (0.0, 0.0)), start, SolverConfig(2, 5))
    assert found.stopped == "solved"
    assert found.losses == [0, 0]
    same(found.variables, start, 0)
    projected = Samples(project(problem.samples.cells, problem.projection), problem.size)
    shrunk = minimise(FilterProblem(projected, nothing, 0.1), start[:1], SolverConfig(1, 5))
    assert float(shrunk.variables[0].abs().max()) < 1e-15  # the regulariser alone wants zeros


@pytest.mark.parametrize("consistent", [True, False])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_singular_problems_are_solved_within_the_span_of_their_gradients(direction, consistent):
    generator = torch.Generator().manual_seed(1)
    factors = [torch.randn(shape, generator=generator, dtype=PRECISE) for shape in ((9, 3), (3, 6), (9,), (6,))]
    matrix = factors[0] @ factors[1]  # of rank 3
    right = matrix @ factors[3] if consistent else factors[2]
    smallest = torch.linalg.pinv(matrix, rcond=1e-10) @ right
    for iterations in (3, 60):  # as many as the rank, and many more: what is left then is rounding
        config = SolverConfig(1, iterations, direction)
        for dtype, share in ((PRECISE, 1e-9), (torch.float32, 1e-3)):
            exact, wanted = matrix.to(dtype), right.to(dtype)
            problem = AutogradProblem(lambda x, a=exact, b=wanted: a @ x - b)
            found = minimise(problem, (torch.zeros(6, dtype=dtype),), config)
            same(found.variables, (smallest.to(dtype),), share)
            assert found.stopped == ("iterations" if iterations == 3 else "solved")


class Flat:
    """A linearised problem with a gradient but no curvature, which exact arithmetic does not have."""

    loss = torch.tensor(1.0)

    def __init__(self, curvature: float) -> None:
        self.curvature = curvature

    def linearise(self, variables):
        return self

    def gradient(self):
        return (torch.ones(2),)

    def product(self, direction):
        return (self.curvature * direction[0],)


@pytest.mark.parametrize("curvature", [0.0, -1.0])
def test_no_curvature(curvature):
    found = minimise(Flat(curvature), (torch.zeros(2),), SolverConfig(1, 5))
    assert found.stopped == "singular"
    assert found.variables[0].tolist() == [0, 0]


def test_curvature_lost_in_rounding():
    too_small = AutogradProblem(lambda x: 1e-15 * x - 1)  # its square's square is not a float32
    found = minimise(too_small, column(0.0, dtype=torch.float32), SolverConfig())
    assert (found.stopped, found.variables[0].tolist()) == ("singular", [0])
    too_far = AutogradProblem(lambda x: 1e-20 * x - 1e18)  # solved by 1e38, a step of 1e40 gradients
    assert minimise(too_far, column(0.0, dtype=torch.float32), SolverConfig()).stopped == "singular"


@pytest.mark.parametrize(
    ("residual", "start", "words"),
    [
        (lambda x: x * math.nan, 1.0, "loss is nan in step 1"),
        (lambda x: 1 / x, 0.0, "loss is inf in step 1"),
        (lambda x: torch.log(x), 10.0, "loss is nan in step 2"),  # the first step leads below zero
        (lambda x: torch.sqrt(x), 0.0, "gradient is nan in step 1"),
        (lambda x: 1e150 * x, 1.0, "gradient is inf"),
        (lambda x: torch.ones(2), 1.0, "does not depend"),
        (lambda x: x.detach(), 1.0, "does not depend"),
        (lambda x: (), 1.0, "no tensors"),
    ],
)
def test_residuals_that_cannot_be_minimised(residual, start, words):
    with pytest.raises(InputError, match=words):
        minimise(AutogradProblem(residual), column(start), SolverConfig(3, 3))


def test_products_that_are_not_finite():
    with pytest.raises(InputError, match="curvature is nan in step 1"):
        minimise(Flat(math.nan), (torch.zeros(2),), SolverConfig())


def test_features_or_labels_that_are_not_finite():
    problem = Classifier((5, 5), (4, 4), 3, 0.05, torch.float32)
    labels = problem.labels.clone()
    labels[1, 2, 2] = math.nan
    bad = TwoLayerProblem(problem.samples, ClassifierTargets(labels, problem.weights, 0.05), (0.1, 0.1))
    with pytest.raises(InputError, match="labels"):
        minimise(bad, (problem.filters, problem.projection), SolverConfig())


def test_residuals_may_leave_variables_out():
    problem = AutogradProblem(lambda x, y: (torch.sign(x), y - 1))
    found = minimise(problem, (*column(1.0, -2.0), *column(5.0)), SolverConfig(1, 3))
    assert found.variables[0].tolist() == [1, -2]
    assert found.variables[1].tolist() == [1]
    unused = minimise(AutogradProblem(lambda x, y: y - 1), (*column(1.0), *column(5.0)), SolverConfig(1, 3))
    assert [v.tolist() for v in unused.variables] == [[1], [1]]


def test_variables_and_preconditioners_must_fit():
    problem = AutogradProblem(lambda *v: v[0])
    descent = DescentConfig(1, 0.1)
    for solve in (lambda s: minimise(problem, s, SolverConfig()), lambda s: gradient_descent(problem, s, descent)):
        with pytest.raises(InputError, match="no variables"):
            solve(())
        with pytest.raises(InputError, match=r"torch\.int64"):
            solve((torch.tensor([1]),))
    with pytest.raises(InputError, match="1 variables and a preconditioner for 2"):
        minimise(problem, column(1.0), SolverConfig(preconditioner=(1.0, 2.0)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gauss_newton_steps": -1}, "-1 Gauss-Newton"),
        ({"cg_iterations": -2}, "-2 iterations"),
        ({"direction": "fletcher_reves"}, "fletcher_reeves"),
        ({"preconditioner": (0.1, 0.0)}, "above 0"),
        ({"preconditioner": (math.nan,)}, "above 0"),
        ({"forgetting": 0.0}, "forgetting is 0"),
        ({"forgetting": 1.5}, "forgetting is 1.5"),
        ({"forgetting": math.nan}, "forgetting is nan"),
        ({"tolerance": -0.1}, "tolerance is -0.1"),
        ({"tolerance": 1.0}, "tolerance is 1"),
        ({"tolerance": math.nan}, "tolerance is nan"),
    ],
)
def test_settings_of_the_solver(change, words):
    with pytest.raises(InputError, match=words):
        SolverConfig(**change)


@pytest.mark.parametrize(
    "change", [{"steps": -1}, {"step_length": 0.0}, {"step_length": math.nan}, {"momentum": 1.0}, {"momentum": -0.1}]
)
def test_settings_of_the_descent(change):
    with pytest.raises(InputError, match="momentum in"):
        DescentConfig(**{"steps": 3, "step_length": 0.1, **change})


# --- gradient descent --------------------------------------------------------------------------------------------------------


def test_gradient_descent_with_momentum():
    seen: list[tuple[int, float]] = []
    found = gradient_descent(
        AutogradProblem(lambda x: 2 * x - 2),
        column(3.0),
        DescentConfig(3, 0.05, 0.5),
        lambda calls, variables: seen.append((calls, float(variables[0]))),
    )
    point, velocity, want, losses = 3.0, 0.0, [3.0], []
    for _ in range(3):
        losses.append((2 * point - 2) ** 2)
        velocity = 2 * 2 * (2 * point - 2) + 0.5 * velocity
        point -= 0.05 * velocity
        want.append(point)
    assert [calls for calls, _ in seen] == [0, 1, 2, 3]
    assert [x for _, x in seen] == pytest.approx(want)
    assert float(found.variables[0]) == pytest.approx(want[-1])
    assert found.losses == pytest.approx(losses)


def test_gradient_descent_that_goes_nowhere():
    start = column(3.0)
    assert torch.equal(
        gradient_descent(AutogradProblem(lambda x: x), start, DescentConfig(0, 0.1)).variables[0], start[0]
    )
    with pytest.raises(InputError, match="diverged in step"):
        gradient_descent(AutogradProblem(lambda x: x), start, DescentConfig(2000, 10.0))
    steep = AutogradProblem(lambda x: 1e15 * x)
    with pytest.raises(InputError, match="diverged in step 1"):
        gradient_descent(steep, column(1e3, dtype=torch.float32), DescentConfig(1, 1e38))


# --- where and on what it runs -----------------------------------------------------------------------------------------------


def test_in_inference_mode_and_outside():
    """Trackers run in inference mode; autograd needs to leave it."""
    config = SolverConfig(2, 4)
    for closed, automatic, start in Classifier((5, 6), (4, 3), 3, 0.05, PRECISE).both():
        for problem in (closed, automatic):
            outside = minimise(problem, start, config)
            with torch.inference_mode():
                inside = minimise(problem, tuple(v.clone() for v in start), config)
                descended = gradient_descent(problem, tuple(v.clone() for v in start), DescentConfig(2, 1e-3))
            with torch.no_grad():
                without = minimise(problem, start, config)
            assert torch.equal(joined(outside.variables), joined(inside.variables))
            assert torch.equal(joined(outside.variables), joined(without.variables))
            assert not any(v.requires_grad for v in (*outside.variables, *inside.variables, *descended.variables))


def test_memory_layout_of_the_variables():
    for closed, automatic, start in Classifier((5, 6), (4, 3), 3, 0.05, PRECISE).both():
        turned = (
            start[0].transpose(2, 3).contiguous().transpose(2, 3),
            *(v.transpose(0, 1).contiguous().transpose(0, 1) for v in start[1:]),
        )
        assert not turned[0].is_contiguous()
        for problem in (closed, automatic):
            one, two = (minimise(problem, v, SolverConfig(2, 4)) for v in (start, turned))
            same(two.variables, one.variables, 1e-9)
            given = [v.clone() for v in turned]
            assert all(torch.equal(a, b) for a, b in zip(given, turned, strict=True))  # the start is left alone


def test_a_solver_on_part_of_a_memory():
    """The filled slots of a larger memory: the same problem as those samples alone."""
    problem = Classifier((5, 5), (4, 4), 4, 0.05, PRECISE)
    cells = project(problem.samples.cells, problem.projection)
    part = FilterProblem(
        Samples(cells[:, :3], (5, 5)), ClassifierTargets(problem.labels[:3], problem.weights[:3], 0.05), 0.1
    )
    weights = problem.weights.clone()
    weights[3] = 0  # or the whole memory, with weight 0 in the rest
    whole = FilterProblem(Samples(cells, (5, 5)), ClassifierTargets(problem.labels, weights, 0.05), 0.1)
    one, two = (minimise(p, (problem.filters,), SolverConfig()) for p in (part, whole))
    same(one.variables, two.variables, 1e-12)
