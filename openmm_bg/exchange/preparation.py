"""Contexts, random numbers and silence for openmmtools samplers."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openmm_bg.errors import InputError
from openmm_bg.exchange.platforms import timed_platforms
from openmm_bg.threads import potential_threads

if TYPE_CHECKING:
    import openmm
    from openmmtools.multistate import ParallelTemperingSampler

    from openmm_bg.generator import BoltzmannGenerator
    from openmm_bg.systems import MolecularSystem


_WORTH_ONE_THREAD = 0.8  # of the fastest rate


def silence_openmmtools() -> None:
    """Keep openmmtools and pymbar from announcing themselves; their warnings about a run still come.

    It must be called before openmmtools is imported for the first time.
    """
    for name in ("pymbar", "pymbar.timeseries", "pymbar.mbar_solvers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in ("multistatesampler", "multistatereporter"):
        # A logger holds a filter once, however often it is added.
        logging.getLogger(f"openmmtools.multistate.{name}").addFilter(_not_the_announcement)


def _not_the_announcement(record: logging.LogRecord) -> bool:
    return "API is experimental" not in record.getMessage()


def choose_platform(system: MolecularSystem, name: str | None) -> tuple[str, dict[str, str]]:
    """Return an OpenMM platform and its properties for one Context.

    Args:
        system: The system.
        name: The platform, its CPU one with a single thread; None times dynamics on all and takes the fastest.

    Raises:
        InputError: If there is no such platform here.
    """
    import openmm

    # openmmtools would choose by reputation, and leave the number of threads to OpenMM.
    if name is not None:
        known = [openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())]
        if name not in known:
            raise InputError(f"There is no platform called {name!r} here; choose from {', '.join(known)}.")
        return name, {"Threads": "1"} if name == "CPU" else {}
    timed = timed_platforms(system, potential_threads())
    fastest = max(one.steps_per_second for one in timed)
    # Threads that wait for each other gain little in a short trial, and lose it when cores are busy.
    single = [one for one in timed if one.platform.properties.get("Threads") == "1"]
    enough = [one for one in single if one.steps_per_second >= _WORTH_ONE_THREAD * fastest]
    chosen = max(enough or timed, key=lambda one: one.steps_per_second).platform
    return chosen.name, chosen.properties


def start_positions(generator: BoltzmannGenerator, structure: str | Path) -> np.ndarray:
    """Read the positions [nm] to start from, and check that they belong to a model.

    Args:
        generator: The model.
        structure: A PDB file of the model's molecule, atoms in the same order.

    Raises:
        InputError: If the file cannot be read, is of another molecule, or has another chirality.
    """
    from openmm import unit

    from openmm_bg.systems.pdb_files import read_pdb

    path = Path(structure)
    pdb = read_pdb(path)
    positions = np.array(pdb.getPositions(asNumpy=True).value_in_unit(unit.nanometer))
    ours, theirs = ([atom.element for atom in t.atoms()] for t in (generator.system.topology, pdb.topology))
    if ours != theirs:
        raise InputError(
            f"{path} is of another molecule than the model: it has {len(theirs)} atoms, the model "
            f"({generator.system.name}) {len(ours)}, and their elements must agree one by one."
        )
    if not bool(generator.flow.in_domain(positions[None])[0]):
        raise InputError(
            f"{path} has another chirality, or other labels of equivalent hydrogens, than the model's "
            "reference structure, and the flow move would never leave it; start from the model's topology.pdb."
        )
    return positions


def relaxed_positions(
    system: MolecularSystem, positions: np.ndarray, platform: str, properties: dict[str, str]
) -> np.ndarray:
    """Return positions [nm] after a short minimisation: a file's may be strained."""
    import openmm
    from openmm import unit

    context = openmm.Context(
        system.system,
        openmm.VerletIntegrator(0.001),
        openmm.Platform.getPlatformByName(platform),
        properties,
    )
    context.setPositions(positions)
    openmm.LocalEnergyMinimizer.minimize(context, maxIterations=100)
    relaxed = context.getState(positions=True).getPositions(asNumpy=True)
    return relaxed.value_in_unit(unit.nanometer)


def prepare(sampler: ParallelTemperingSampler, settings: dict[str, Any], seed: int | None) -> None:
    """Give a sampler its Contexts and its random numbers."""
    import openmm
    from openmm import unit
    from openmmtools.cache import ContextCache

    integrator_seed = 0
    if seed is not None:
        # A resumed run must not repeat the numbers of its first part.
        sequence = np.random.SeedSequence([int(seed), int(sampler.iteration)])
        integrator_seed, *others = (int(value) % (2**31 - 1) + 1 for value in sequence.generate_state(4))
        _seed_everything(*others)
    # Dynamics and energies share one Context, and so do all temperatures. It is created here, since
    # OpenMM reads an integrator's seed only then.
    platform = openmm.Platform.getPlatformByName(settings["platform"])
    cache = ContextCache(platform, settings["platform_properties"] or None)
    integrator = _langevin(settings, unit)
    integrator.setRandomNumberSeed(integrator_seed)
    cache.get_context(sampler._thermodynamic_states[0], integrator)
    sampler.sampler_context_cache = sampler.energy_context_cache = cache


def draw_velocities(sampler: ParallelTemperingSampler) -> None:
    """Give each replica velocities of its temperature, which dynamics would otherwise find in a Context."""
    from openmm_bg.mcmc.host import host_system
    from openmm_bg.mcmc.velocities import maxwell_boltzmann
    from openmm_bg.units import kelvin

    for replica, state in zip(sampler._sampler_states, sampler._replica_thermodynamic_states, strict=True):
        thermodynamic_state = sampler._thermodynamic_states[state]
        masses = host_system(thermodynamic_state).masses
        replica.velocities = maxwell_boltzmann(masses, kelvin(thermodynamic_state.temperature))


def _langevin(settings: dict[str, Any], unit: Any) -> openmm.Integrator:
    """Return an integrator that openmmtools takes for the one of its own LangevinDynamicsMove."""
    import openmm

    integrator = openmm.LangevinMiddleIntegrator(
        settings["temperatures"][0] * unit.kelvin,
        settings["collision_rate"] / unit.picosecond,
        settings["timestep"] * unit.picosecond,
    )
    integrator.setConstraintTolerance(1e-8)
    return integrator


def _seed_everything(numpy_seed: int, numba_seed: int, flow_seed: int) -> None:
    from openmm_bg import mcmc

    mcmc.seed(flow_seed)
    np.random.seed(numpy_seed)  # noqa: NPY002 (openmmtools mixes replicas with this generator)
    try:
        import numba
    except ImportError:
        return

    @numba.njit
    def seed_compiled_code(value: int) -> None:
        np.random.seed(value)  # noqa: NPY002 (compiled code has a generator of its own)

    seed_compiled_code(numba_seed)
