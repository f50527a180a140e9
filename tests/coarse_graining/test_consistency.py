"""The table of observables: values by hand, errors, deviations, and its file."""

import csv

import numpy as np
import pytest
from chain_molecule import chain

from openmm_bg.coarse_graining.consistency import (
    compare_moments,
    largest_deviation,
    observables_of,
    write_table,
)


def zigzag(n, step=0.15):
    """Return a planar zigzag of n atoms [nm] whose bonds enclose right angles."""
    return np.array([[step * ((k + 1) // 2), step * (k // 2), 0.0] for k in range(n)])


def test_observables_by_hand():
    """A planar zigzag of five atoms: all torsions are 180 degrees, and the ends are 0.42 nm apart."""
    x = np.stack([zigzag(5), 1.2 * zigzag(5)])
    found = observables_of(chain(5), x, np.array([1.0, 2.0]))
    assert found["potential energy"] == ("kJ/mol", pytest.approx([1.0, 2.0]))
    r = 0.15 * np.sqrt(8)
    assert found["d(CHN1-C0, CHN1-C4)"] == ("nm", pytest.approx([r, 1.2 * r]))
    assert found["d(CHN1-C0, CHN1-C1)"] == ("nm", pytest.approx([0.15, 0.18]))
    centred = zigzag(5) - zigzag(5).mean(axis=0)
    gyration = np.sqrt((centred**2).sum() / 5)
    assert found["radius of gyration"] == ("nm", pytest.approx([gyration, 1.2 * gyration]))
    # Only the ends are four bonds apart; within 0.45 nm in the first configuration alone.
    assert found["contacts"] == ("pairs", pytest.approx([1.0, 0.0]))
    assert found["cos(torsion 0)"] == ("", pytest.approx([-1.0, -1.0]))
    assert found["cos(2 torsion 1)"] == ("", pytest.approx([1.0, 1.0]))
    assert found["sin(torsion 1)"] == ("", pytest.approx([0.0, 0.0], abs=1e-12))
    assert "contacts" not in observables_of(chain(4), zigzag(4)[None], np.zeros(1))


def test_moments_and_deviations(rng, tmp_path):
    """Normal draws of width 2 weighted to width 1, against a chain of width 1 in 40 walkers."""
    wide = 2.0 * rng.normal(size=40_000)
    log_weights = -0.5 * wide**2 * (1 - 1 / 4)
    found = {"x": ("nm", wide), "cos(t)": ("", np.cos(wide))}
    x = rng.normal(size=20_000)
    reference = {"x": ("nm", x), "cos(t)": ("", np.cos(x))}
    table = compare_moments(found, log_weights, reference, 40, 40)
    assert [(line.name, line.moment) for line in table] == [("x", 1), ("x", 2), ("cos(t)", 1)]
    second = table[1]
    assert second.weighted == pytest.approx(1.0, abs=4 * second.weighted_stderr)
    assert second.reference_stderr == pytest.approx(np.sqrt(2 / 20_000), rel=0.4)
    assert second.unweighted == pytest.approx(4.0, abs=4 * second.unweighted_stderr)
    assert largest_deviation(table) < 3.5
    assert second.unweighted_deviation > 20
    write_table(table, tmp_path / "table.csv")
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["x", "x", "cos(t)"]
    assert float(rows[1]["weighted"]) == pytest.approx(second.weighted, rel=1e-5)
    assert float(rows[1]["deviation"]) == pytest.approx(second.deviation, rel=1e-4)


def test_walkers_that_stay_apart_make_large_errors():
    """Eight walkers at levels 0 and 1 that they never leave: blocks in time would show no scatter at all."""
    values = np.tile([0.0, 1.0] * 4, 1000)
    flat = {"x": ("nm", values)}
    (line, _) = compare_moments(flat, np.zeros(8000), flat, 8, 8)
    assert line.reference_stderr == pytest.approx(np.sqrt(0.25 / 7), rel=1e-6)
