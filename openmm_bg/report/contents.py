"""What a report is about: configurations, models and replica exchange runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openmm_bg.plotting import COLOURS
from openmm_bg.report.records import system_hash

if TYPE_CHECKING:
    from openmm_bg.analysis import Ramachandran
    from openmm_bg.exchange import ExchangeRecord

SAME_TEMPERATURE = 0.5
"""Temperatures closer than this [K] are the same."""


@dataclass(frozen=True, eq=False)
class ConfigurationSet:
    """Configurations at one temperature, reduced to torsions and energies.

    Attributes:
        kind: "samples", "exchange", "simulation" or "reference".
        label: What they are, for plots and tables; different for each set of a report.
        path: The file they come from; None for the package's reference.
        temperature: Their temperature [K], or None if the file does not tell.
        ramachandran: Backbone torsions by residue.
        energies: Potential energies [kJ/mol] with shape=(n,), if known.
        log_weights: Log-weights with shape=(n,) of samples, None of a chain.
        n_walkers: Walkers of a chain, interleaved.
        command: The command that made them.
        record: What is recorded about them.
        n_draws: The number of draws of samples, those outside the domain included; of others that of frames.
        system_hash: The hash of their energy function, if known.
        colour: That of their lines, on the whole page.
    """

    kind: str
    label: str
    path: Path | None
    temperature: float | None
    ramachandran: dict[str, Ramachandran]
    energies: np.ndarray | None
    log_weights: np.ndarray | None = None
    n_walkers: int = 1
    command: str = ""
    record: dict[str, Any] = field(default_factory=dict)
    n_draws: int = 0
    system_hash: str | None = None
    colour: str = COLOURS[0]

    @property
    def all_log_weights(self) -> np.ndarray:
        """Log-weights of all draws, -inf for those outside the domain, with shape=(n_draws,)."""
        inside = np.zeros(self.n_draws) if self.log_weights is None else self.log_weights
        return np.concatenate([inside, np.full(self.n_draws - len(inside), -np.inf)])

    def is_at(self, temperature: float) -> bool:
        """Tell whether it is of a temperature [K]."""
        return self.temperature is not None and abs(self.temperature - temperature) < SAME_TEMPERATURE


@dataclass(frozen=True, eq=False)
class ExchangeRun:
    """A replica exchange run, its command, its file, and what it is called."""

    path: Path
    run: ExchangeRecord
    command: str
    name: str


@dataclass(frozen=True, eq=False)
class Source:
    """What was read, the command that made it, and what is recorded about it; the path of a reference is None."""

    path: Path | None
    name: str
    command: str
    record: dict[str, Any]


@dataclass(eq=False)
class Contents:
    """All that a report is about.

    Attributes:
        title: What it is about.
        models: Directories of models, and of trainings under way.
        model_names: What they are called.
        exchanges: Replica exchange runs.
        sets: Configurations; the package's references included where they are of the same energy function.
        residue_names: What the residues of the sets are called.
        summary: The summary of a main job, if there is one.
        sources: All that was read.
    """

    title: str = ""
    models: list[Path] = field(default_factory=list)
    model_names: list[str] = field(default_factory=list)
    exchanges: list[ExchangeRun] = field(default_factory=list)
    sets: list[ConfigurationSet] = field(default_factory=list)
    residue_names: dict[str, str] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    sources: list[Source] = field(default_factory=list)

    @property
    def temperatures(self) -> list[float]:
        """The temperatures [K] of the sets, ascending."""
        found: list[float] = []
        for one in self.sets:
            if one.temperature is not None and not any(one.is_at(t) for t in found):
                found.append(one.temperature)
        return sorted(found)

    @property
    def residues(self) -> list[str]:
        """The residues that have both phi and psi, in order."""
        return list(dict.fromkeys(residue for one in self.sets for residue in one.ramachandran))

    @property
    def energy_functions(self) -> dict[str, list[str]]:
        """What is of which energy function, by its hash, as far as it is known; without references."""
        own = [(one.system_hash, one.label) for one in self.sets if one.kind != "reference"]
        own += [(system_hash(model), name) for model, name in zip(self.models, self.model_names, strict=True)]
        found: dict[str, list[str]] = {}
        for known, name in own:
            if known is not None:
                found.setdefault(known, []).append(name)
        return found
