"""An OpenMM system's energy function as batched tensor code, without OpenMM at run time."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from openmm_bg.errors import InputError, ModelFileError
from openmm_bg.potentials.base import Potential
from openmm_bg.potentials.terms import TERMS, Pairs, Term

if TYPE_CHECKING:
    import openmm

_FORMAT = 1
# Pairs times configurations of one chunk: their intermediate results stay in a CPU's cache.
_CHUNK_ELEMENTS = 2**17


class TorchPotential(Potential):
    """A translated energy function; build it with `from_system` or `load`.

    Energies and forces of a batch are computed together, in chunks whose intermediate results fit
    in the processor's cache. Results do not depend on the batch size beyond rounding.

    Args:
        n_atoms: The number of atoms.
        terms: The energy terms.
        dtype: Precision of the arithmetic; results have it, whatever the positions' dtype.
        device: Where to compute; results are returned on the positions' device.
        compile: Fuse the code with ``torch.compile``: several times faster, after some ten seconds of
            compilation at first use. Needs a C++ compiler (CPU) or Triton (GPU); without one, a warning
            says so and the code runs as it is.
    """

    def __init__(
        self,
        n_atoms: int,
        terms: list[Term],
        *,
        dtype: torch.dtype = torch.float64,
        device: str | torch.device = "cpu",
        compile: bool = False,
    ) -> None:
        super().__init__(n_atoms)
        self.dtype, self.device = dtype, torch.device(device)
        self._module = _Energy(n_atoms, terms).to(device=self.device, dtype=dtype)
        self._compiled = torch.compile(self._module, dynamic=False) if compile else None
        n_pairs = max(1, n_atoms * (n_atoms - 1) // 2)
        chunk = max(1, _CHUNK_ELEMENTS // n_pairs)
        self.chunk_size = 1 << (min(chunk, 4096).bit_length() - 1)
        self.compiled = compile

    @classmethod
    def from_system(
        cls,
        system: openmm.System | Any,
        *,
        dtype: torch.dtype = torch.float64,
        device: str | torch.device = "cpu",
        compile: bool = False,
    ) -> TorchPotential:
        """Translate an OpenMM system, and check the translation against OpenMM's Reference platform.

        Args:
            system: An ``openmm.System`` or a `MolecularSystem`.
            dtype: Precision of the arithmetic.
            device: Where to compute.
            compile: Fuse the code with ``torch.compile``.

        Raises:
            InputError: If the system has a force that is not supported (use `OpenMMPotential` for it).
            TranslationError: If the translation disagrees with OpenMM.
        """
        from openmm_bg.potentials.translation import translate

        system = getattr(system, "system", system)
        return cls(system.getNumParticles(), translate(system), dtype=dtype, device=device, compile=compile)

    def to(
        self,
        *,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
        compile: bool | None = None,
    ) -> TorchPotential:
        """Return a copy with another precision, device or compilation; its counters start at zero."""
        # The float64 parameters are rebuilt from the terms' own arrays, so that float32 -> float64
        # does not keep rounded parameters.
        return TorchPotential(
            self.n_atoms,
            [term.copy() for term in self.terms],
            dtype=dtype or self.dtype,
            device=device or self.device,
            compile=self.compiled if compile is None else compile,
        )

    @property
    def terms(self) -> list[Term]:
        """The energy terms."""
        return list(self._module.terms)

    def _evaluate(
        self, positions: torch.Tensor, with_forces: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if len(positions) == 0:
            return positions.new_zeros(0, dtype=self.dtype), (positions.clone() if with_forces else None)
        energies, forces = [], []
        for chunk in positions.split(self.chunk_size):
            x = chunk.to(device=self.device, dtype=self.dtype).permute(1, 2, 0).contiguous()
            count = x.shape[2]
            if self._compiled is not None and count < self.chunk_size:
                # One shape, one compilation: fill up with the last configuration.
                x = torch.cat([x, x[..., -1:].expand(-1, -1, self.chunk_size - count)], dim=2)
            if with_forces:
                with torch.enable_grad():
                    x.requires_grad_(True)
                    energy = self._energy(x)
                    (gradient,) = torch.autograd.grad(energy.sum(), x)
                forces.append(-gradient[..., :count].permute(2, 0, 1).to(positions))
            else:
                with torch.no_grad():
                    energy = self._energy(x)
            energies.append(energy.detach()[:count].to(positions.device))
        return torch.cat(energies), (torch.cat(forces) if with_forces else None)

    def _energy(self, x: torch.Tensor) -> torch.Tensor:
        if self._compiled is None:
            return self._module(x)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, while it compiles
                return self._compiled(x)
        except Exception as error:
            energy = self._module(x)  # if this fails too, the error is not the compiler's
            self._compiled, self.compiled = None, False
            reason = " ".join(str(error).split())[:200]
            warnings.warn(
                f"torch.compile failed, so the potential runs uncompiled, several times slower: {reason}",
                RuntimeWarning,
                stacklevel=2,
            )
            return energy

    def save(self, path: str | Path) -> None:
        """Write the parameters to one safetensors file, with the expressions in its JSON header."""
        from safetensors.torch import save

        from openmm_bg.files import atomic_write_bytes

        header = {"format": _FORMAT, "n_atoms": self.n_atoms, "terms": []}
        tensors = {}
        for k, term in enumerate(self.terms):
            header["terms"].append({"kind": type(term).__name__, "config": term.config})
            tensors |= {f"{k}.{name}": array.contiguous() for name, array in term.arrays().items()}
        atomic_write_bytes(path, save(tensors, metadata={"openmm_bg_potential": json.dumps(header)}))

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        dtype: torch.dtype = torch.float64,
        device: str | torch.device = "cpu",
        compile: bool = False,
    ) -> TorchPotential:
        """Read a potential that `save` wrote; OpenMM is not needed.

        Raises:
            ModelFileError: If the file is missing, truncated or of another kind.
        """
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise ModelFileError(f"There is no potential file {path}.")
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {})["openmm_bg_potential"])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            raise ModelFileError(f"{path} is truncated or is not a saved potential: {error}") from error
        if header.get("format") != _FORMAT:
            raise ModelFileError(
                f"{path} has format {header.get('format')}; this version reads format {_FORMAT}."
            )
        try:
            terms = []
            for k, entry in enumerate(header["terms"]):
                own = {
                    name.split(".", 1)[1]: array for name, array in arrays.items() if name.startswith(f"{k}.")
                }
                terms.append(TERMS[entry["kind"]](entry["config"], **own))
            return cls(header["n_atoms"], terms, dtype=dtype, device=device, compile=compile)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ModelFileError(f"{path} is not a potential that this version can read: {error}") from error


class _Energy(nn.Module):
    """The sum of the terms, on coordinates with shape=(n_atoms, 3, batch)."""

    def __init__(self, n_atoms: int, terms: list[Term]) -> None:
        super().__init__()
        self.terms = nn.ModuleList(terms)
        first, second = torch.triu_indices(n_atoms, n_atoms, 1)
        self.register_buffer("first", first)
        self.register_buffer("second", second)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pairs = Pairs(x, self.first, self.second)
        energy = x.new_zeros(x.shape[2])
        for term in self.terms:
            energy = energy + term(x, pairs)
        return energy


class TranslationError(InputError):
    """A translated potential disagrees with OpenMM; please report it, and use `OpenMMPotential`."""
