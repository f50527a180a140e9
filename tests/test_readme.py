"""The README's examples are run, and what it names exists."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text()


def _block(language, containing):
    blocks = re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)
    return next(block for block in blocks if containing in block)


@pytest.fixture(scope="module")
def small_model(alanine, md_positions, tmp_path_factory):
    from openmm_bg import BoltzmannGenerator, TorchPotential
    from openmm_bg.flows import SplineFlow
    from openmm_bg.transforms import InternalCoordinates

    coordinates = InternalCoordinates.from_reference(alanine.positions, alanine.bonds, alanine.masses)
    flow = SplineFlow(coordinates.fit(md_positions), 600.0, n_layers=2, hidden_features=8)
    generator = BoltzmannGenerator(flow, TorchPotential.from_system(alanine), system=alanine)
    return generator.save(tmp_path_factory.mktemp("readme") / "model")


@pytest.mark.filterwarnings("ignore")  # openmmtools' own
def test_openmmtools_example(small_model, tmp_path, capsys):
    from openmm import unit
    from openmmtools.multistate import MultiStateReporter
    from openmmtools.states import SamplerState, ThermodynamicState
    from openmmtools.testsystems import AlanineDipeptideImplicit

    code = _block("python", "ParallelTemperingSampler").replace("demo/model", str(small_model))
    namespace = {}
    exec(compile(code, "README.md", "exec"), namespace)
    sampler = namespace["sampler"]
    molecule = AlanineDipeptideImplicit(constraints=None)
    sampler.create(
        ThermodynamicState(molecule.system, 300 * unit.kelvin),
        SamplerState(molecule.positions),
        MultiStateReporter(str(tmp_path / "run.nc"), checkpoint_interval=1),
        min_temperature=300 * unit.kelvin,
        max_temperature=600 * unit.kelvin,
        n_temperatures=2,
    )
    sampler.run(2)
    assert sampler.mcmc_moves[0].move_list[0].n_proposed == 2 * 16


@pytest.mark.filterwarnings("ignore::openmm_bg.errors.ReliabilityWarning")
def test_python_example(small_model, capsys):
    code = _block("python", "BoltzmannGenerator.load").replace("demo/model", str(small_model))
    namespace = {}
    exec(compile(code, "README.md", "exec"), namespace)
    assert namespace["forces"].shape == (1, 22, 3)
    assert namespace["mean"].stderr > 0


@pytest.mark.filterwarnings("ignore")  # openmmtools' own, and a flow that is not trained
def test_snippets_of_exchange(small_model, tmp_path, monkeypatch):
    """They follow each other, in one namespace; fewer iterations do here."""
    text = (Path(__file__).parent.parent / "docs" / "exchange.md").read_text()
    code = "".join(re.findall(r"```python\n(.*?)```", text, flags=re.S))
    code = code.replace("demo/model", str(small_model)).replace("range(200)", "range(2)")
    code = code.replace("number_of_iterations=100", "number_of_iterations=2").replace(
        "simulate(100)", "simulate(2)"
    )
    monkeypatch.chdir(tmp_path)
    namespace = {}
    exec(compile(code, "exchange.md", "exec"), namespace)
    assert namespace["move"].n_proposed == 2
    assert namespace["sampler"].iteration == 2
    assert [flow.n_proposed for (flow,) in namespace["native"].moves] == [2 * 16] * 4


def test_commands_exist():
    from typer.main import get_command

    from openmm_bg.cli import app

    named = set(re.findall(r"`openmm-bg ([\w-]+)", README))
    assert named == set(get_command(app).commands)


def test_files_that_are_named_exist():
    root = Path(__file__).parent.parent
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    for name in links + re.findall(r"`((?:scripts|systems|openmm_bg)/[\w./]+)`", README):
        assert (root / name).exists(), name
