"""OpenMM's fastest platform for dynamics of one molecule, by trial."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from openmm_bg.errors import InputError

if TYPE_CHECKING:
    import openmm

    from openmm_bg.systems import MolecularSystem

_SECONDS, _N_ROUNDS, _TOO_SLOW = 0.1, 4, 0.5


class Platform(NamedTuple):
    """A platform and the properties of its Contexts."""

    name: str
    properties: dict[str, str]


class TimedPlatform(NamedTuple):
    """A platform and how many steps of dynamics it takes in a second."""

    platform: Platform
    steps_per_second: float


def timed_platforms(system: MolecularSystem, threads: int) -> list[TimedPlatform]:
    """Time dynamics on every platform that works.

    Reputation does not tell: with a GBSAOBCForce on 22 atoms OpenMM's Reference platform is 15 times faster than
    its CPU one, with a CustomGBForce it is the other way round, and a second thread often slows that down. The
    candidates take turns, so that what else a machine does hits all of them, and the best turn of each counts.

    Args:
        system: The molecule.
        threads: The most threads that may be used.

    Raises:
        InputError: If no platform works.
    """
    contexts = list(_contexts(system, threads))
    if not contexts:
        raise InputError(
            "None of OpenMM's platforms can simulate the system; check the installation of OpenMM."
        )
    best = [0.0] * len(contexts)
    for turn in range(_N_ROUNDS):
        for k, (_, context) in enumerate(contexts):
            if turn == 0 or best[k] >= _TOO_SLOW * max(best):
                best[k] = max(best[k], _rate(context, best[k]))
    return [TimedPlatform(platform, rate) for (platform, _), rate in zip(contexts, best, strict=True)]


def _contexts(system: MolecularSystem, threads: int) -> Iterator[tuple[Platform, openmm.Context]]:
    import openmm

    for platform in _candidates(threads):
        integrator = openmm.LangevinMiddleIntegrator(system.temperature, 2.0, 0.001)
        found = openmm.Platform.getPlatformByName(platform.name)
        try:
            context = openmm.Context(system.system, integrator, found, platform.properties)
            context.setPositions(system.positions)
            integrator.step(2)
        except openmm.OpenMMException:  # e.g. a GPU that is not there
            continue
        yield platform, context


def _candidates(threads: int) -> Iterator[Platform]:
    import openmm

    for index in range(openmm.Platform.getNumPlatforms()):
        name = openmm.Platform.getPlatform(index).getName()
        if name == "CPU":
            for number in sorted({1, threads}):
                yield Platform(name, {"Threads": str(number)})
        else:
            yield Platform(name, {})


def _rate(context: Any, expected: float) -> float:
    """Return the steps per second of a turn; the first one finds out how many it takes."""
    integrator, n = context.getIntegrator(), max(1, round(_SECONDS * expected))
    while True:
        start = time.perf_counter()
        integrator.step(n)
        context.getState(positions=True)  # a GPU has finished only then
        seconds = time.perf_counter() - start
        if expected or seconds >= 0.5 * _SECONDS:
            return n / seconds
        n *= 2
