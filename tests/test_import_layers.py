"""Imports point down: a module imports from its own layer and from those below it only."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# The layer of each module or package of openmm_bg. A new one has to be put into its place here.
LAYERS = {
    **dict.fromkeys(["errors", "units", "files", "tensors", "threads", "statistics", "models", "systems"], 0),
    **dict.fromkeys(["geometry", "histograms", "machine_code", "potentials"], 1),
    **dict.fromkeys(["transforms", "flows"], 2),
    **dict.fromkeys(
        ["samples", "trajectories", "model_files", "generator", "training", "annealing", "simulation"], 3
    ),
    **dict.fromkeys(["molecule_check", "molecule_report"], 3),
    **dict.fromkeys(["mcmc", "exchange", "coarse_graining"], 4),
    **dict.fromkeys(
        ["analysis", "plotting", "io", "comparison", "reference", "reference_frames", "stages"], 5
    ),
    **dict.fromkeys(["main_job", "cli", "reproduction", "observables", "report", "sampling_benchmark"], 5),
}
WITHOUT_OPENMM = ("transforms", "flows")
HOSTS = ("openmm", "openmmtools", "mdtraj", "simtk")


def modules():
    """Yield the name, the source and the kind of every module; ``openmm_bg`` itself has no layer."""
    for top, name in ((ROOT / "openmm_bg", "openmm_bg"), (ROOT / "systems", "openmm_bg.systems")):
        for file in sorted(top.rglob("*.py")):
            parts = [name, *file.relative_to(top).with_suffix("").parts]
            if parts[-1] == "__init__":
                parts.pop()
            if parts != ["openmm_bg"]:
                yield ".".join(parts), file.read_text(), file.name == "__init__.py"


def imported_names(source, module, is_package=False):
    """Return the dotted names that a module imports, those inside functions and type checks included."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: len(module.split(".")) - node.level + is_package]
                base = ".".join([*parents, base] if base else parents)
            # Of ``from openmm_bg import statistics`` the name is the module.
            names += [f"{base}.{alias.name}" for alias in node.names] if base == "openmm_bg" else [base]
    return names


def layer_of(name):
    part = name.split(".")[1]
    if part not in LAYERS:
        raise KeyError(f"openmm_bg.{part} has no layer yet: add it to LAYERS")
    return LAYERS[part]


def violations(source, module, is_package=False):
    """Return what a module imports although it must not."""
    own = module.split(".")[1]
    found = []
    for name in imported_names(source, module, is_package):
        if name.split(".")[0] == "openmm_bg" and name != "openmm_bg.__version__":
            if name == "openmm_bg" or layer_of(name) > layer_of(module):
                found.append(name)
        elif own in WITHOUT_OPENMM and name.split(".")[0] in HOSTS:
            found.append(name)
    return found


@pytest.mark.parametrize(("module", "source", "is_package"), [pytest.param(*m, id=m[0]) for m in modules()])
def test_imports_point_down(module, source, is_package):
    assert violations(source, module, is_package) == []


def test_every_layer_has_modules():
    found = {name.split(".")[1] for name, _, _ in modules()}
    assert found == set(LAYERS)


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("openmm_bg.potentials.base", "from openmm_bg.generator import X", ["openmm_bg.generator"]),
        ("openmm_bg.potentials.base", "def f():\n    import openmm_bg.mcmc.host", ["openmm_bg.mcmc.host"]),
        ("openmm_bg.samples", "if TYPE_CHECKING:\n    from openmm_bg import cli", ["openmm_bg.cli"]),
        ("openmm_bg.potentials.base", "from ..flows.base import Flow", ["openmm_bg.flows.base"]),
        ("openmm_bg.potentials.base", "from .. import flows", ["openmm_bg.flows"]),
        ("openmm_bg.flows.base", "import openmm.unit", ["openmm.unit"]),
        ("openmm_bg.units", "import openmm_bg", ["openmm_bg"]),
        ("openmm_bg.potentials.base", "from openmm_bg.potentials.terms import Term\nimport openmm", []),
        ("openmm_bg.cli", "from openmm_bg import __version__, generator\nfrom . import console", []),
        ("openmm_bg.flows.base", "from ..transforms import base\nimport torch", []),
    ],
)
def test_upward_imports_are_found(module, source, expected):
    """The negative control: the check sees what it is there for, and nothing else."""
    assert violations(source, module, is_package=module == "openmm_bg.cli") == expected


def test_module_without_a_layer_is_found():
    with pytest.raises(KeyError, match=r"openmm_bg\.novelty has no layer yet"):
        violations("", "openmm_bg.novelty") or violations("import openmm_bg.novelty", "openmm_bg.cli")
