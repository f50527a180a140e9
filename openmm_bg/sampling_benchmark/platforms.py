"""OpenMM's fastest platform for dynamics of one molecule, by trial."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from openmm_bg.errors import InputError
from openmm_bg.files import atomic_write_json
from openmm_bg.sampling_benchmark.trace import Stopwatch

if TYPE_CHECKING:
    import openmm

    from openmm_bg.systems import MolecularSystem

_N_STEPS, _N_ROUNDS, _TOO_SLOW = 250, 4, 0.5


class Platform(NamedTuple):
    """A platform and the properties of its Contexts."""

    name: str
    properties: dict[str, str]


def fastest_platform(system: MolecularSystem, threads: int, path: Path) -> Platform:
    """Return the platform with the fastest dynamics, or that which was found before.

    Reputation does not tell: with a GBSAOBCForce on 22 atoms OpenMM's Reference platform is 15 times faster than
    its CPU one, with a CustomGBForce it is the other way round, and a second thread often slows that down. The
    candidates take turns, so that what else a machine does hits all of them, and the best turn of each counts.

    Args:
        system: The molecule.
        threads: The most threads that may be used.
        path: The file that keeps the choice and the rates, so that all methods have the same platform.

    Raises:
        InputError: If no platform works.
    """
    if not path.exists():
        rates = _rates(system, threads)
        if not rates:
            raise InputError(
                "None of OpenMM's platforms can simulate the system; check the installation of OpenMM."
            )
        best = max(rates, key=lambda rate: rate["steps_per_second"])
        atomic_write_json(path, {"chosen": best, "rates": rates})
    chosen = json.loads(path.read_text())["chosen"]
    return Platform(chosen["platform"], chosen["properties"])


def _rates(system: MolecularSystem, threads: int) -> list[dict[str, Any]]:
    """Return the steps per second of every platform that works."""
    import openmm

    contexts: list[tuple[Platform, openmm.Context]] = []
    for platform in _candidates(threads):
        integrator = openmm.LangevinMiddleIntegrator(system.temperature, 2.0, 0.001)
        found = openmm.Platform.getPlatformByName(platform.name)
        try:
            context = openmm.Context(system.system, integrator, found, platform.properties)
            context.setPositions(system.positions)
            integrator.step(2)
        except openmm.OpenMMException:  # e.g. a GPU that is not there
            continue
        contexts.append((platform, context))
    best = [0.0] * len(contexts)
    for turn in range(_N_ROUNDS):
        for k, (_, context) in enumerate(contexts):
            if turn and best[k] < _TOO_SLOW * max(best):
                continue
            stopwatch = Stopwatch()
            context.getIntegrator().step(_N_STEPS)
            context.getState(positions=True)  # a GPU has finished only then
            best[k] = max(best[k], _N_STEPS / stopwatch.lap().seconds)
    return [
        {"platform": platform.name, "properties": platform.properties, "steps_per_second": rate}
        for (platform, _), rate in zip(contexts, best, strict=True)
    ]


def _candidates(threads: int) -> Iterator[Platform]:
    import openmm

    for index in range(openmm.Platform.getNumPlatforms()):
        name = openmm.Platform.getPlatform(index).getName()
        if name == "CPU":
            for number in sorted({1, threads}):
                yield Platform(name, {"Threads": str(number)})
        else:
            yield Platform(name, {})
