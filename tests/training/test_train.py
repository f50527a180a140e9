"""Training: it learns, resumes exactly, stops early, and refuses what it cannot use."""

import csv
import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from openmm_bg import BoltzmannGenerator, InputError
from openmm_bg.flows import SplineFlow, TemperatureSteerableFlow
from openmm_bg.potentials.base import Potential
from openmm_bg.simulation import SimulationSettings, simulate
from openmm_bg.training import TrainingData, TrainingSettings, load_data, train
from openmm_bg.training.losses import ReverseKL, log_dispersion
from openmm_bg.training.trainer import Trainer, _Densities
from openmm_bg.transforms import CartesianCoordinates
from openmm_bg.units import thermal_energy

SMALL = TrainingSettings(
    n_steps=60,
    validation_interval=20,
    validation_samples=200,
    learning_rate=0.003,
    kl_weight=0.2,
    n_layers=2,
    hidden_features=16,
    batch_size=64,
    kl_batch_size=32,
)


@pytest.fixture(scope="module")
def data_directory(alanine, tmp_path_factory):
    directory = tmp_path_factory.mktemp("simulation") / "data"
    settings = SimulationSettings(n_walkers=64, n_frames=1280, interval=10, burn_in=200)
    simulate(alanine, directory, settings)
    return directory


@pytest.fixture
def data(data_directory):
    return load_data(data_directory)


def _rows(directory):
    with (directory / "log.csv").open() as file:
        return list(csv.DictReader(file))


def test_training_improves_and_logs(data, tmp_path):
    generator = train(data, tmp_path / "model", SMALL)
    rows = _rows(tmp_path / "model")
    assert [int(row["step"]) for row in rows] == [20, 40, 60]
    assert all(np.isfinite(float(row["held_out_nll"])) for row in rows)
    assert 0 < float(rows[-1]["ess"]) <= 1
    # Against the untrained flow, which is the normal distribution of the features.
    start = Trainer(data, tmp_path / "untrained", SMALL)
    with torch.no_grad():
        untrained = -float(start.flow.state_log_prob(start._held_out).mean())
    assert float(rows[-1]["held_out_nll"]) < untrained - 0.1
    assert generator.path == (tmp_path / "model").resolve()
    assert not (tmp_path / "model" / "checkpoint.safetensors").exists()
    loaded = BoltzmannGenerator.load(tmp_path / "model")
    assert loaded.temperature == 600.0
    assert loaded.record["settings"]["n_steps"] == 60
    # Energies are counted exactly: KL batches after kl_start, and the validations' samples.
    n_kl = sum(SMALL.kl_weight_at(step / 60) > 0 for step in range(60))
    assert loaded.record["training"]["n_energy_evaluations"] == n_kl * 32 + 3 * 200


def test_interrupted_training_resumes_exactly(data, tmp_path, monkeypatch):
    whole = train(data, tmp_path / "whole", SMALL)
    step = Trainer._one_step

    def stop(self):
        if self.step == 47:
            raise KeyboardInterrupt
        step(self)

    monkeypatch.setattr(Trainer, "_one_step", stop)
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "stopped", SMALL)
    assert (tmp_path / "stopped" / "checkpoint.safetensors").exists()
    monkeypatch.setattr(Trainer, "_one_step", step)
    resumed = train(data, tmp_path / "stopped", SMALL)
    pairs = zip(whole.flow.state_dict().values(), resumed.flow.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    ignored = {"seconds"}
    for a, b in zip(_rows(tmp_path / "whole"), _rows(tmp_path / "stopped"), strict=True):
        assert {k: v for k, v in a.items() if k not in ignored} == {
            k: v for k, v in b.items() if k not in ignored
        }


_CHILD = """
import sys
import torch
torch.set_num_threads(1)
from openmm_bg.training import TrainingSettings, load_data, train
settings = TrainingSettings(n_steps=40, validation_interval=10, validation_samples=50, n_layers=2,
                            hidden_features=8, batch_size=32, kl_batch_size=16)
train(load_data(sys.argv[1]), sys.argv[2], settings)
"""


def test_sigkill_and_resume(data_directory, tmp_path):
    command = [sys.executable, "-c", _CHILD, str(data_directory), str(tmp_path / "model")]
    with subprocess.Popen(command, env=os.environ) as child:
        checkpoint = tmp_path / "model" / "checkpoint.safetensors"
        for _ in range(1200):
            if checkpoint.exists():
                break
            time.sleep(0.05)
        child.send_signal(signal.SIGKILL)
    assert checkpoint.exists()
    subprocess.run(command, check=True)
    assert [int(row["step"]) for row in _rows(tmp_path / "model")] == [10, 20, 30, 40]
    BoltzmannGenerator.load(tmp_path / "model")


def test_early_stopping(data, tmp_path):
    settings = TrainingSettings(
        **{
            **SMALL.__dict__,
            "n_steps": 1000,
            "learning_rate": 1e-12,
            "patience": 2,
            "averaging": 0.0,
            "kl_weight": 0.0,
        }
    )
    train(data, tmp_path / "model", settings)
    assert len(_rows(tmp_path / "model")) <= 5  # the first is the best, but for rounding


def test_refuses_what_it_cannot_use(data, tmp_path):
    with pytest.raises(InputError, match="too few"):
        train(
            TrainingData(data.system, data.positions[:50], data.energies[:50], 600.0, {}),
            tmp_path / "a",
            SMALL,
        )
    bad = data.positions.copy()
    bad[7, 3] = np.nan
    with pytest.raises(InputError, match="NaN"):
        train(TrainingData(data.system, bad, data.energies, 600.0, {}), tmp_path / "b", SMALL)
    with pytest.raises(InputError, match="chirality"):
        train(TrainingData(data.system, -data.positions, data.energies, 600.0, {}), tmp_path / "c", SMALL)
    assert not list(tmp_path.iterdir())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious.txt").write_text("data")
    with pytest.raises(InputError, match="holds other things"):
        train(data, tmp_path / "other", SMALL)
    train(data, tmp_path / "model", SMALL)
    with pytest.raises(InputError, match="finished model"):
        train(data, tmp_path / "model", SMALL)


def test_refuses_another_run_s_checkpoint(data, tmp_path):
    trainer = Trainer(data, tmp_path / "model", SMALL)
    trainer.checkpoint()
    with pytest.raises(InputError, match="other data or settings"):
        train(data, tmp_path / "model", TrainingSettings(**{**SMALL.__dict__, "seed": 5}))


def test_damaged_data_directory(data_directory, tmp_path):
    with pytest.raises(InputError, match="no output of openmm-bg simulate"):
        load_data(tmp_path)
    for name in ("provenance.json", "system.xml", "topology.pdb", "trajectory.h5"):
        copy = tmp_path / name.replace(".", "_")
        copy.mkdir()
        for path in data_directory.iterdir():
            content = path.read_bytes()
            (copy / path.name).write_bytes(content[: len(content) // 2] if path.name == name else content)
        with pytest.raises(InputError):
            load_data(copy)


class _Oscillator(Potential):
    """k/2 |x|^2 of one particle, k = 500 kJ/mol/nm^2."""

    def _evaluate(self, positions, with_forces):
        return 250.0 * positions.square().sum((1, 2)), -500.0 * positions


def test_reverse_kl_is_that_of_theory_and_its_gradient_improves_the_flow():
    """KL(q || p) - log Z of two Gaussians, from an identity flow; then descent towards -log Z."""
    kt = thermal_energy(600.0)
    data = np.random.default_rng(0).normal(size=(20_000, 1, 3)) * np.sqrt(1.5 * kt / 500.0)
    coordinates = CartesianCoordinates(1).fit(data)
    flow = SplineFlow(coordinates, 600.0, n_layers=2, hidden_features=8, bound=5.0)
    reverse_kl = ReverseKL(_Oscillator(1), 600.0, energy_cut=1e6)
    covariance = coordinates.factor @ coordinates.factor.T
    loss, ess = reverse_kl(flow, 100_000, torch.Generator().manual_seed(1))
    # At the identity log|det| = 0, and the loss is the mean energy in kT: tr(C + m m^T) k / 2 kT.
    expected = float((covariance.trace() + coordinates.mean.square().sum()) * 250.0 / kt)
    assert float(loss.detach()) == pytest.approx(expected, abs=4 * np.sqrt(2 * 3 / 100_000) * 1.5)
    # q has 1.5 times p's variance in three dimensions: ESS = (sqrt(2/1.5 - 1/1.5^2))^3 to sampling error.
    assert ess == pytest.approx((2 / 1.5 - 1 / 1.5**2) ** 1.5, abs=0.02)
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.01)
    for seed in range(60):
        optimizer.zero_grad()
        reverse_kl(flow, 500, torch.Generator().manual_seed(seed))[0].backward()
        optimizer.step()
    better, ess_better = reverse_kl(flow, 100_000, torch.Generator().manual_seed(1))
    lowest = 1.5 + 1.5 * np.log(1.5)  # at q = p: mean energy, and log|det| of shrinking to p's width
    assert float(better.detach()) > lowest - 0.05  # a bound: nothing is below -log Z
    assert float(better.detach()) < float(loss.detach()) - 0.05
    assert ess_better > ess + 0.05


def test_reverse_kl_tames_clashes(data):
    trainer = Trainer(data, Path("unused"), SMALL)
    loss, ess = trainer._kl(trainer.flow, 200, torch.Generator().manual_seed(0))
    assert 0 < ess <= 1
    loss.backward()
    gradients = [p.grad for p in trainer.flow.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(g).all() for g in gradients)
    tamed = ReverseKL(trainer._kl.potential, 600.0, energy_cut=-1e9)
    low, _ = tamed(trainer.flow, 200, torch.Generator().manual_seed(0))
    assert float(low.detach()) < float(loss.detach())


def test_log_dispersion_is_zero_for_the_boltzmann_distribution_only():
    """Gaussian data: log q + u is constant for the right variance, and has a known variance for another one."""
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    energy = 0.5 * x.square()
    assert float(log_dispersion(-energy + 3.0, energy)) < 1e-20
    # q with twice the precision: log q + u = -x^2 / 2, whose variance under the data is 1/2.
    wrong = float(log_dispersion(-2.0 * energy, energy, bound=100.0))
    assert wrong == pytest.approx(0.5, abs=5 * 0.5 * (15 / 200_000) ** 0.5)


@pytest.mark.parametrize("kind", [SplineFlow, TemperatureSteerableFlow])
@pytest.mark.parametrize("ratio", [1.0, 0.7, 0.5])
def test_dispersion_at_lower_temperatures_vanishes_for_flows_that_scale_as_they_should(kind, ratio):
    """A harmonic well at every temperature, from data of the training temperature; a wrong ratio is noticed."""
    x = torch.randn(4000, 1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    flow = kind(CartesianCoordinates(1), 300.0, n_layers=2, hidden_features=8)
    flow.set_dtype(torch.float64)  # at the start the identity
    features = x.flatten(1)
    energy = 0.5 * features.square().sum(1)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        densities = _Densities(flow, features, generator, ratio)
        assert float(log_dispersion(ratio * densities.log_prob(ratio), energy)) < 1e-20
        wrong = ratio * densities.log_prob(0.8 * ratio)
        assert float(log_dispersion(wrong, energy)) > 0.01


def test_dispersion_is_that_of_the_temperatures_that_are_asked_for(data):
    for lowest, share in ((1.0, 1.0), (0.5, 1.0), (0.5, 0.25), (0.5, 0.0)):
        settings = dataclasses.replace(SMALL, dispersion_ratio=lowest, cold_fraction=share)
        trainer, ratios = Trainer(data, Path("unused"), settings), []
        for trainer.step in range(400):
            ratios.append(trainer._temperature_ratio())
        assert lowest <= min(ratios) <= max(ratios) <= 1.0
        expected = 0.0 if lowest == 1.0 else share
        assert sum(ratio < 1.0 for ratio in ratios) == expected * 400
        if expected:
            assert max(ratio for ratio in ratios if ratio < 1.0) - min(ratios) > 0.9 * (1.0 - lowest)


@pytest.mark.parametrize("kind", ["realnvp", "tsf", "tsf-affine"])
def test_every_kind_of_flow_is_trained(data, tmp_path, kind):
    settings = dataclasses.replace(SMALL, flow=kind, n_steps=40, validation_interval=40)
    generator = train(data, tmp_path / "model", settings)
    row = _rows(tmp_path / "model")[-1]
    start = Trainer(data, tmp_path / "untrained", settings)
    with torch.no_grad():
        untrained = -float(
            _Densities(start.flow, start._held_out, torch.Generator().manual_seed(0)).log_prob().mean()
        )
    assert float(row["held_out_nll"]) < untrained - 0.05
    samples = BoltzmannGenerator.load(tmp_path / "model").sample(500, 400.0, seed=1)
    assert 0 < samples.ess() <= 1
    assert generator.flow.n_momenta == (60 if kind.startswith("tsf") else 0)
    assert bool(generator.flow.coordinates.circular.any()) == (kind != "realnvp")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flow": "glow"}, "no flow 'glow'; the flows are spline, realnvp, tsf, tsf-affine"),
        ({"dispersion_ratio": 0.0}, "dispersion_ratio must be above 0 and at most 1"),
        ({"n_momenta": 0}, "n_momenta must be at least 1"),
        ({"kl_weight": 1.5}, "between 0 and 1"),
        ({"n_steps": 0}, "must be positive"),
        ({"kl_start": 0.9, "kl_full": 0.2}, "must not be before"),
        ({"n_bins": 1}, "n_bins"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(InputError, match=message):
        TrainingSettings(**changes)
