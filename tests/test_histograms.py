"""Shares of weight in cells: their errors are the scatter of repetitions."""

import numpy as np
import pytest

from openmm_bg.histograms import cell_fractions, chain_error, weighted_quantiles


def test_errors_of_weighted_samples_are_their_scatter(rng):
    """Draws from three cells with weights 1, 2 and 4: shares 1/7, 2/7 and 4/7."""
    repetitions = []
    for _ in range(400):
        cells = rng.integers(0, 3, size=900)
        repetitions.append(cell_fractions(cells, 3, np.log([1.0, 2.0, 4.0])[cells] - 50.0))
    fractions, errors = np.array(repetitions).transpose(1, 0, 2)
    np.testing.assert_allclose(fractions.mean(axis=0), np.array([1, 2, 4]) / 7, rtol=0.02)
    np.testing.assert_allclose(errors.mean(axis=0), fractions.std(axis=0, ddof=1), rtol=0.15)


def test_errors_of_chains_are_those_of_blocks_and_walkers(rng):
    # Each state lasts 100 frames: 20,000 frames are worth 200.
    cells = np.repeat(rng.integers(0, 4, size=2000), 100)
    _, errors = cell_fractions(cells, 4)
    np.testing.assert_allclose(errors, np.sqrt(0.25 * 0.75 / 2000), rtol=0.6)
    # Fifty walkers that never leave their cell.
    stuck = rng.integers(0, 2, size=50)
    fraction, errors = cell_fractions(np.tile(stuck, 30), 2, n_walkers=50)
    assert errors[0] == pytest.approx(np.sqrt(fraction[0] * fraction[1] / 49))


def test_frames_in_no_cell_count_as_frames():
    fraction, _ = cell_fractions(np.array([0, -1, 1, -1]), 2)
    assert fraction.tolist() == [0.25, 0.25]
    fraction, _ = cell_fractions(np.array([0, -1]), 2, np.log([1.0, 3.0]))
    np.testing.assert_allclose(fraction, [0.25, 0.0])
    _, errors = cell_fractions(np.array([0]), 2)
    assert np.isinf(errors).all()  # nothing is known of the scatter of one frame


def test_a_few_walkers_that_never_move(rng):
    """Blocks in time hold all walkers and do not scatter."""
    cells = np.tile([0, 1, 0, 1, 1, 0, 1, 0], 5000)
    _, errors = cell_fractions(cells, 2, n_walkers=8)
    np.testing.assert_allclose(errors, np.sqrt(0.25 / 7))
    # A few that move fast: the error is about that of independent frames, from whichever parts scatter more.
    ratios = []
    for _ in range(200):
        _, errors = cell_fractions(rng.integers(0, 2, size=8000), 2, n_walkers=8)
        ratios.append(errors[0] / np.sqrt(0.25 / 8000))
    assert 1.0 < np.mean(ratios) < 1.4


def test_parts_of_a_chain():
    seen = []

    def average(part):
        seen.append(list(range(103))[part])
        return float(len(seen[-1]))

    chain_error(average, 103, 2)
    blocks, walkers = seen[:20], seen[20:]
    assert [frame for block in blocks for frame in block] == list(range(103))
    assert walkers == [list(range(0, 103, 2)), list(range(1, 103, 2))]
    seen.clear()
    chain_error(average, 103, 30)
    assert seen == [list(range(k, 103, 30)) for k in range(30)]


def test_quantiles_of_weighted_values():
    values, weights = np.array([3.0, 1.0, 2.0]), np.array([0.5, 0.25, 0.25])
    np.testing.assert_allclose(
        weighted_quantiles(values, weights, (0.0, 0.25, 0.5, 1.0)), [1.0, 1.0, 2.0, 3.0]
    )
