"""``openmm-bg sample``: weighted samples of a trained model at a temperature."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openmm_bg.cli.arguments import Model
from openmm_bg.cli.console import print_summary, say
from openmm_bg.errors import InputError
from openmm_bg.statistics import with_error

if TYPE_CHECKING:
    from openmm_bg.generator import BoltzmannGenerator


def sample(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="The samples file to write (.h5).")] = Path(
        "samples.h5"
    ),
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", "-T", help="Temperature (K); that of training if not given."),
    ] = None,
    number: Annotated[int, typer.Option("--number", "-n", help="How many samples.")] = 100_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random numbers.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Samples drawn at once.")] = 2048,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, or e.g. cuda.")] = "cpu",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Draw samples with Boltzmann weights from a trained model, at any temperature near that of training.

    Writes a trajectory (.h5, read by mdtraj), a table with a row for each frame (.csv: log q, reduced energy,
    log-weight, potential energy) and a summary (.json).

    Example: openmm-bg sample model --temperature 300 -n 100000 --output samples.h5
    """
    from openmm_bg.files import provenance
    from openmm_bg.io import samples_path, save_samples
    from openmm_bg.samples import UNRELIABLE_PARETO_K
    from openmm_bg.units import kelvin

    output = samples_path(output)
    if temperature is not None:
        kelvin(temperature)
    for name, value in (("samples", number), ("samples drawn at once", batch_size)):
        if value < 1:
            raise InputError(f"The number of {name} must be at least 1, not {value}.")
    generator = _load(model, device)
    samples = generator.sample(number, temperature, seed=seed, batch_size=batch_size, progress=not quiet)
    samples.record |= provenance(seed=seed, model=str(model))
    samples.ess()  # nothing is written if no sample has a weight
    summary = save_samples(samples, output)
    n_lost = summary["n_out_of_domain"] + summary["n_nonfinite"]
    n_effective = summary["ess"] * len(samples)
    free_energy = summary["free_energy_kT"], summary["free_energy_kT_stderr"]
    lost = "without weight: wrong chirality, impossible, or no finite energy"
    print_summary(
        [
            ("draws", f"{len(samples)}", f"{n_lost} {lost}"),
            ("ESS", f"{summary['ess']:.2%}", f"worth {n_effective:.0f} independent samples of the target"),
            (
                "ESS, clipped",
                f"{summary['ess_clipped_1e-4']:.2%}",
                "with the top 1e-4 of the weights clipped",
            ),
            (
                "Pareto k",
                f"{summary['pareto_k']:.2f}",
                f"averages are reliable up to {UNRELIABLE_PARETO_K}, good below 0.5",
            ),
            ("free energy", f"{with_error(free_energy)} kT", "-log of the partition function (nm, no frame)"),
        ],
        title=f"{samples.temperature:g} K: {output}",
    )
    samples.warn_if_unreliable()
    say(f"Look at them with: openmm-bg report {output} {model}")


def _load(model: Path, device: str) -> BoltzmannGenerator:
    import torch

    from openmm_bg.generator import BoltzmannGenerator

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"The device {device!r} cannot be used here ({reason}); try cpu.") from error
    generator = BoltzmannGenerator.load(model, device=device)
    if generator.system is None:
        raise InputError(f"The model {model} does not know its molecule, so samples cannot be written.")
    return generator
