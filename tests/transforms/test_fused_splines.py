"""Splines in machine code against the tensor form, whose formulas are checked against nflows."""

import math

import pytest
import torch

from openmm_bg.transforms.fused_splines import MAX_BINS, FusedSplines
from openmm_bg.transforms.splines import coupling_splines, tensor_splines


def inputs(dtype, batch, n_bins=8, n_circular=3, n_rows=7, seed=0):
    """Return inputs inside and outside the interval, raw parameters, and the half-widths."""
    generator = torch.Generator().manual_seed(seed)
    bounds = torch.tensor([math.pi] * n_circular + [6.0] * (n_rows - n_circular), dtype=dtype)
    unit = 2.0 * torch.rand(n_rows, batch, generator=generator, dtype=dtype) - 1.0
    scale = torch.where(torch.arange(n_rows) < n_circular, 1.0, 1.2).to(dtype)
    raw = 2.0 * torch.randn(n_rows, 3 * n_bins + 1, batch, generator=generator, dtype=dtype)
    return unit * (scale * bounds)[:, None], raw, n_circular, bounds


def with_gradients(function, arguments, inverse):
    """Return results and gradients of a sum with random weights."""
    x, raw, n_circular, bounds = arguments
    x, raw = x.clone().requires_grad_(), raw.clone().requires_grad_()
    y, logabsdet = function(x, raw, n_circular, bounds, inverse)
    generator = torch.Generator().manual_seed(7)
    weights = [torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in (y, logabsdet)]
    ((weights[0] * y).sum() + (weights[1] * logabsdet).sum()).backward()
    return y.detach(), logabsdet.detach(), x.grad, raw.grad


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("batch", [1, 16, 333])
@pytest.mark.parametrize(("n_bins", "n_circular"), [(8, 3), (2, 0), (5, 7), (MAX_BINS, 2)])
def test_equal_to_tensors(inverse, batch, n_bins, n_circular):
    arguments = inputs(torch.float64, batch, n_bins, n_circular)
    fused = with_gradients(FusedSplines.apply, arguments, inverse)
    tensors = with_gradients(tensor_splines, arguments, inverse)
    for one, other in zip(fused, tensors, strict=True):
        assert (one - other).abs().max() <= 1e-9 * (1.0 + other.abs().max())


@pytest.mark.parametrize("inverse", [False, True])
def test_single_precision(inverse):
    """No further from the exact results than the tensor form in single precision is, save a little."""
    arguments = inputs(torch.float64, 2000)
    exact = with_gradients(tensor_splines, arguments, inverse)
    single = tuple(a.float() if isinstance(a, torch.Tensor) else a for a in arguments)
    fused = with_gradients(FusedSplines.apply, single, inverse)
    tensors = with_gradients(tensor_splines, single, inverse)
    for reference, one, other in zip(exact, fused, tensors, strict=True):
        errors = [(x.double() - reference).abs().flatten() for x in (one, other)]
        # A bin's edge is seen on one side or the other by rounding: gradients jump there, so no maximum.
        ours, theirs = (error.quantile(0.99) if error.numel() < 1e7 else error.mean() for error in errors)
        assert ours <= 2.0 * theirs + 1e-6


def test_gradients_are_those_of_the_results():
    """Finite differences, which know nothing of either form."""
    x, raw, n_circular, bounds = inputs(torch.float64, 3, n_bins=4, n_circular=1, n_rows=3)
    for inverse in (False, True):
        assert torch.autograd.gradcheck(
            lambda x, raw, inverse=inverse: FusedSplines.apply(x, raw, n_circular, bounds, inverse),
            (x.clone().requires_grad_(), (0.5 * raw).requires_grad_()),
        )


def test_inverse():
    x, raw, n_circular, bounds = inputs(torch.float64, 500)
    y, forward = FusedSplines.apply(x, raw, n_circular, bounds, False)
    back, backward = FusedSplines.apply(y, raw, n_circular, bounds, True)
    assert (back - x).abs().max() < 1e-9
    assert (forward + backward).abs().max() < 1e-9


def test_not_a_number_stays_one():
    x, raw, n_circular, bounds = inputs(torch.float64, 20)
    x[:, 4] = math.nan
    y, _ = FusedSplines.apply(x, raw, n_circular, bounds, False)
    assert torch.isnan(y[:, 4]).all()
    assert torch.isfinite(y[:, :4]).all()
    assert torch.isfinite(y[:, 5:]).all()


@pytest.mark.parametrize("changed", [1, 3])
def test_mixed_precision_takes_the_tensor_form(changed):
    """As under autocast: the machine code would read past the end of what is shorter than it expects."""
    arguments = list(inputs(torch.float32, 40))
    arguments[changed] = arguments[changed].double()
    y, logabsdet = coupling_splines(*arguments)
    expected = tensor_splines(*arguments)
    assert torch.equal(y, expected[0])
    assert torch.equal(logabsdet, expected[1])


def test_inputs_that_are_not_contiguous():
    x, raw, n_circular, bounds = inputs(torch.float64, 40)
    turned = (x.t().contiguous().t(), raw.permute(2, 1, 0).contiguous().permute(2, 1, 0), n_circular, bounds)
    assert not turned[0].is_contiguous()
    for one, other in zip(coupling_splines(*turned), tensor_splines(x, raw, n_circular, bounds), strict=True):
        assert (one - other).abs().max() < 1e-9


def test_an_empty_batch():
    y, logabsdet = coupling_splines(*inputs(torch.float64, 0))
    assert y.shape == (7, 0)
    assert logabsdet.shape == (0,)


def test_which_form_is_used(monkeypatch):
    """More bins than the machine code is written for take the tensor form, and so do systems without LLVM."""
    called = []
    monkeypatch.setattr(FusedSplines, "apply", lambda *arguments: called.append(1))
    arguments = inputs(torch.float64, 16)
    coupling_splines(*arguments)
    assert called
    called.clear()
    coupling_splines(*inputs(torch.float64, 16, n_bins=MAX_BINS + 1))
    monkeypatch.setattr("openmm_bg.transforms.splines.find_spec", lambda name: None)
    coupling_splines(*arguments)
    assert not called
