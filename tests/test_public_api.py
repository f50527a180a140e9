"""The public face: a short list of names, and what importing them loads."""

import subprocess
import sys
import textwrap

import pytest

import openmm_bg

NAMES = [
    "BoltzmannGenerator",
    "CoarseGrainedGenerator",
    "CoarseGrainedMove",
    "FlowMove",
    "InputError",
    "LatentMonteCarloMove",
    "LearnedReplicaExchangeSampler",
    "MultipleTryMove",
    "OpenMMPotential",
    "TorchPotential",
    "WasteRecycling",
    "systems",
]


def test_names():
    """A longer list is a promise to keep: think twice, then change it here too."""
    assert sorted(openmm_bg.__all__) == NAMES
    assert set(NAMES) <= set(dir(openmm_bg))


@pytest.mark.parametrize("name", NAMES)
def test_names_can_be_imported(name):
    value = getattr(openmm_bg, name)
    assert value.__doc__
    assert (value.__module__ if name != "systems" else value.__name__).startswith("openmm_bg")


def test_unknown_names():
    with pytest.raises(AttributeError, match="'openmm_bg' has no attribute 'Nonsense'"):
        _ = openmm_bg.Nonsense
    with pytest.raises(AttributeError, match="has no attribute 'Nonsense'"):
        _ = openmm_bg.potentials.Nonsense


def run_without(blocked, code):
    """Run code in a process in which some packages are not installed."""
    start = f"""
        import sys

        class Blocked:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in {blocked!r}:
                    raise ImportError(f"{{name}} is not installed")

        sys.meta_path.insert(0, Blocked())
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(start) + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    "code",
    [
        "import openmm_bg",
        "from openmm_bg import TorchPotential, BoltzmannGenerator, InputError",
        "import openmm_bg.potentials",
        "import openmm_bg.transforms, openmm_bg.flows",
    ],
)
def test_these_imports_need_no_openmm(code):
    result = run_without(("openmm", "simtk", "openmmtools", "mdtraj", "pymbar", "matplotlib"), code)
    assert result.returncode == 0, result.stderr


def test_blocking_blocks():
    """The negative control of the test above."""
    result = run_without(("openmm",), "from openmm_bg import FlowMove")
    assert result.returncode != 0
    assert "openmm is not installed" in result.stderr


def test_import_alone_loads_no_heavy_package():
    code = (
        "import openmm_bg; print([m for m in ('torch', 'openmm', 'matplotlib', 'scipy') if m in sys.modules])"
    )
    result = run_without((), code)
    assert result.stdout.strip() == "[]", result.stderr
