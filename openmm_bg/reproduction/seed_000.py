"""Seed 000 remade: a double well (figures 2 and 3) and an oscillator in a box (figures 4 and 5)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openmm_bg.errors import InputError
from openmm_bg.files import atomic_write_bytes, atomic_write_json, atomic_write_text, provenance
from openmm_bg.generator import BoltzmannGenerator
from openmm_bg.plotting import save_figure
from openmm_bg.reproduction import double_well as well
from openmm_bg.reproduction import harmonic_oscillator as oscillator
from openmm_bg.reproduction.arrays import arrays_bytes
from openmm_bg.stages import Stages
from openmm_bg.systems.toy_system import UNIT_TEMPERATURE, ToySystem

COMMAND = "python scripts/reproduce_seed_000.py"
UNTRAINED = "untrained"
"""What the RealNVP of the oscillator is called before its training."""

_PART = 50_000  # draws in a file
_SHOWN = 3000  # points in a panel
_DPI = 200


@dataclass(frozen=True)
class Seed000Settings:
    """Settings of both experiments.

    Args:
        double_well: Those of the double well.
        oscillator: Those of the oscillator.
    """

    double_well: well.DoubleWellSettings = field(default_factory=well.DoubleWellSettings)
    oscillator: oscillator.OscillatorSettings = field(default_factory=oscillator.OscillatorSettings)

    @classmethod
    def of(cls, seed: int, *, quick: bool) -> Seed000Settings:
        """Return the settings of the full run, or of one of two minutes that proves nothing.

        Raises:
            InputError: If the seed is negative.
        """
        if seed < 0:
            raise InputError(f"The seed must not be negative, and is {seed}.")
        if quick:
            return cls(well.DoubleWellSettings.quick(seed), oscillator.OscillatorSettings.quick(seed))
        return cls(well.DoubleWellSettings(seed=seed), oscillator.OscillatorSettings(seed=seed))


def reproduce(
    output: str | Path,
    settings: Seed000Settings | None = None,
    *,
    progress: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Remake figures 2 to 5 with their numbers, or go on where an earlier call was stopped.

    The directory gets models and draws, ``figure_2`` to ``figure_5`` and ``map`` as PNG and SVG,
    ``free_energy.csv``, and ``double_well.json`` and ``harmonic_oscillator.json`` with all numbers.

    Args:
        output: The directory.
        settings: The settings.
        progress: Show progress bars.
        say: Called with a line before each stage.

    Returns:
        The acceptance figures: see `rows`.

    Raises:
        InputError: If the directory holds the results of other settings.
    """
    job = _Job(Path(output), settings or Seed000Settings(), progress, say)
    job.double_well()
    job.oscillator()
    return rows(output)


class _Job:
    def __init__(
        self, output: Path, settings: Seed000Settings, progress: bool, say: Callable[[str], None]
    ) -> None:
        self.output, self.settings, self.progress = output, settings, progress
        self._stages = Stages(output, dataclasses.asdict(settings), say)

    def double_well(self) -> None:
        """Train, draw, judge, and make figures 2 and 3."""
        own, directory = self.settings.double_well, self.output / "double_well"
        if (self.output / "double_well.json").exists():
            return
        toy = well.double_well()
        with self._stages.stage("double well: training"):
            x, generator = well.train_double_well(directory / "model", own, progress=self.progress)
        numbers: dict[str, Any] = {}
        with self._stages.stage("double well: draws from the flow's own distribution"):
            # They are those of figure 3, and show what the other draws are better than.
            plain, log_weights = self._draw(
                generator, toy, directory / "plain", own.n_draws // 4, 1.0, own.seed
            )
            numbers["plain"] = well.judge_double_well(plain, log_weights)
        with self._stages.stage("double well: draws with a wider base, for the free energy"):
            draws, log_weights = self._draw(
                generator, toy, directory / "widened", own.n_draws, own.widening, own.seed + 1
            )
            numbers["widened"] = {"widening": own.widening, **well.judge_double_well(draws, log_weights)}
        columns = well.free_energies(draws, log_weights)
        lines = [",".join(columns)]
        lines += [",".join(f"{value:.8g}" for value in row) for row in zip(*columns.values(), strict=True)]
        atomic_write_text(self.output / "free_energy.csv", "\n".join(lines) + "\n")
        label = f"flow, {len(draws):,} weighted draws\n({_widened(numbers)})"
        self._save(well.plot_figure_2(columns, label), "figure_2")
        pairs = [(one, latents(generator, toy, one)) for one in (x, plain[:_SHOWN])]
        self._save(well.plot_figure_3(pairs), "figure_3")
        self._conclude("double_well", own.seed, {**numbers, "training": generator.record["training"]})

    def oscillator(self) -> None:
        """Train and judge the flows, and make figures 4 and 5 and that of the maps."""
        own = self.settings.oscillator
        if (self.output / "harmonic_oscillator.json").exists():
            return
        toy = oscillator.harmonic_oscillator()
        fresh = toy.sample(_SHOWN, UNIT_TEMPERATURE, np.random.default_rng([own.seed, 2]))
        perfect = toy.to_normal(fresh, UNIT_TEMPERATURE)
        numbers, maps = {}, [("equation 4", perfect)]
        for name in (UNTRAINED, *own.flows):
            generator = self._oscillator_flow(name)
            draws, numbers[name] = self._judged(name, generator)
            z = latents(generator, toy, fresh)
            rotated, numbers[name]["rms_from_equation_4"] = oscillator.aligned(z, perfect)
            numbers[name]["training"] = generator.record.get("training")
            if figure := {UNTRAINED: "figure_4", "realnvp": "figure_5"}.get(name):
                shown = draws[:_SHOWN]
                pairs = [(fresh, z), (shown, latents(generator, toy, shown))]
                self._save(oscillator.plot_figure_4_or_5(pairs), figure)
            if name in ("realnvp", "spline"):
                maps.append((numbers[name]["label"], rotated))
        self._save(oscillator.plot_maps(fresh, maps), "map")
        self._conclude("harmonic_oscillator", own.seed, {"flows": numbers})

    def _oscillator_flow(self, name: str) -> BoltzmannGenerator:
        """Train a flow of the oscillator, or make the untrained one."""
        own, directory = self.settings.oscillator, self.output / "harmonic_oscillator" / name
        if name == UNTRAINED:
            return oscillator.untrained_oscillator(own.flows["realnvp"], own.seed)
        flow = own.flows[name]
        with self._stages.stage(f"harmonic oscillator: {flow.label}: training"):
            return oscillator.train_oscillator(directory, flow, own.seed, progress=self.progress)

    def _judged(self, name: str, generator: BoltzmannGenerator) -> tuple[np.ndarray, dict[str, Any]]:
        """Return draws [nm] of a flow of the oscillator, and what it is worth, which is kept."""
        own, directory = self.settings.oscillator, self.output / "harmonic_oscillator"
        flow, path = own.flows.get(name, own.flows["realnvp"]), directory / f"{name}.json"
        label, n_training = (flow.label, flow.n_training) if name != UNTRAINED else ("before training", 0)
        toy = oscillator.harmonic_oscillator()
        with self._stages.stage(f"harmonic oscillator: {label}: draws and tests"):
            draws, log_weights = self._draw(
                generator, toy, directory / f"{name}_draws", flow.n_draws, 1.0, own.seed
            )
            if not path.exists():
                kl = oscillator.divergence(generator, own.n_exact, own.seed)
                judged = oscillator.judge_draws(draws, log_weights, own.seed)
                found = {"label": label, "n_training": n_training, "divergence": kl._asdict(), **judged}
                atomic_write_json(path, found)
        return draws, json.loads(path.read_text())

    def _draw(
        self,
        generator: BoltzmannGenerator,
        toy: ToySystem,
        directory: Path,
        n: int,
        widening: float,
        seed: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw in parts that are kept, so that an interrupted run goes on from the last one.

        Args:
            generator: The generator.
            toy: Its system.
            directory: Where the parts are kept.
            n: How many draws.
            widening: The variance of the latents' normal distribution.
            seed: Seed of the draws.

        Returns:
            Coordinates [nm] with shape=(n, d), and log-weights with shape=(n,) for the temperature of training.
        """
        from rich.progress import track

        generator.temperature_range = (0.5 * UNIT_TEMPERATURE, max(2.0, widening) * UNIT_TEMPERATURE)
        sizes = [min(_PART, n - done) for done in range(0, n, _PART)]
        parts = []
        for k in track(range(len(sizes)), "drawing", disable=not self.progress):
            path = directory / f"{k:03d}.npz"
            if not path.exists():
                own = int(np.random.SeedSequence([seed, k]).generate_state(1)[0])
                samples = generator.sample(sizes[k], widening * UNIT_TEMPERATURE, seed=own)
                # The wider base is that of a higher temperature; the weights are for the lower one all the same.
                log_weights = samples.reweighted(UNIT_TEMPERATURE).log_weights
                x = toy.from_positions(samples.positions)
                atomic_write_bytes(path, arrays_bytes({"x": x, "log_weights": log_weights}))
            with np.load(path) as part:
                parts.append((part["x"], part["log_weights"]))
        x, log_weights = zip(*parts, strict=True)
        return np.concatenate(x), np.concatenate(log_weights)

    def _save(self, figure: Any, name: str) -> None:
        save_figure(figure, self.output / f"{name}.png", dpi=_DPI)

    def _conclude(self, name: str, seed: int, numbers: dict[str, Any]) -> None:
        """Write the numbers of an experiment, which makes it finished."""
        seconds = {
            key: value
            for key, value in self._stages.wall_seconds.items()
            if key.startswith(name.replace("_", " "))
        }
        record = provenance(seed=seed, settings=self._stages.settings, seconds=seconds)
        atomic_write_json(self.output / f"{name}.json", {**numbers, "record": record})


def latents(generator: BoltzmannGenerator, toy: ToySystem, x: np.ndarray) -> np.ndarray:
    """Return the latents of configurations [nm], both with shape=(n, d)."""
    flow = generator.flow
    with torch.no_grad():
        state, _, _ = flow.state_of(toy.to_positions(x), torch.empty(len(x), 0))
        return flow.exact().state_forward(state)[0].numpy()


def rows(directory: str | Path) -> list[dict[str, Any]]:
    """Judge the numbers that `reproduce` wrote.

    Conditions are those on the draws that the free energy comes from, and on the oscillator's flow that is meant to
    meet them. The same figures of the flows in the seed's pictures (3 and 5) are findings.

    Args:
        directory: Where ``double_well.json`` and ``harmonic_oscillator.json`` are.

    Returns:
        A row for each acceptance figure: line, value, stderr, bound, holds, command and seed; findings, which are
        not conditions, have ``"finding": True`` too.

    Raises:
        InputError: If the numbers are not there.
    """
    found = []
    for name in ("double_well", "harmonic_oscillator"):
        path = Path(directory) / f"{name}.json"
        if not path.is_file():
            raise InputError(f"{path} is missing; {COMMAND} writes it.")
        found.append(json.loads(path.read_text()))
    (wells, flows), seed = (found[0], found[1]["flows"]), found[0]["record"]["seed"]
    conditions = _well_lines(wells["widened"], _widened(wells)) + _oscillator_lines(flows["spline"])
    findings = _well_lines(wells["plain"], "base as trained, figure 3") + _oscillator_lines(flows["realnvp"])
    return [_row(*line, seed=seed) for line in conditions] + [
        {**_row(*line, seed=seed), "finding": True} for line in findings
    ]


def _widened(wells: dict[str, Any]) -> str:
    return f"variance of the base times {wells['widened']['widening']:g}"


def _well_lines(judged: dict[str, Any], base: str) -> list[tuple[Any, ...]]:
    name, difference = f"double well ({judged['n_draws']:,} draws, {base})", judged["well_difference"]
    error = abs(float(difference["value"]) - float(difference["exact"]))
    where = f"{name}, F(x1) below {well.REACH:g} kT"
    control = f"{name}: control without weights, populations of the wells off by (standard errors)"
    return [
        (f"{where}: largest standard error (kT)", judged["largest_stderr"], "<=", 0.015),
        (f"{where}: largest |F - exact| (kT)", judged["largest_deviation"], "<=", 0.05),
        (f"{where}: p of the largest |z| among all bins", judged["family_wise_p"], ">=", 0.01),
        (f"{name}: |F(right) - F(left) - exact| (kT)", error, "<=", 0.02, difference["stderr"]),
        (control, abs(well.unweighted_z(judged)), ">", 5.0),
    ]


def _oscillator_lines(judged: dict[str, Any]) -> list[tuple[Any, ...]]:
    flow, kl = f"{judged['label']}; {judged['n_training']:,} to train on", judged["divergence"]
    lines: list[tuple[Any, ...]] = [
        (f"oscillator ({flow}): KL(exact || flow) (nats)", kl["value"], "<=", 0.02, kl["stderr"])
    ]
    for name in ("x1", "x2"):
        own, where = judged[name], f"oscillator ({flow}), {name}"
        lines += [
            (f"{where}: KS distance of unweighted draws", own["distance"], "<=", 0.03),
            (f"{where}: p of weighted draws", own["weighted_p"], ">=", 0.01),
            (f"{where}: control, box longer by 1 %, p", own["control_longer_box_p"], "<", 0.01),
        ]
    return lines


def _row(
    line: str, value: Any, relation: str, bound: float, stderr: float | None = None, *, seed: int
) -> dict[str, Any]:
    value = float(value)  # non-finite numbers are text in JSON
    holds = {
        "<=": value <= bound,
        ">=": value >= bound,
        "<": value < bound,
        ">": value > bound,
    }[relation]
    bound_text = f"{relation} {bound:g}"
    return {
        "line": line,
        "value": value,
        "stderr": stderr,
        "bound": bound_text,
        "holds": holds,
        "command": COMMAND,
        "seed": seed,
    }
