"""Evaluation of terms by tensor operations, as they are or fused by ``torch.compile``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from openmm_bg.potentials.terms import Pairs, Term

_MEBIBYTE = 2**20
_LARGEST_CHUNK = 4096


class TensorEngine:
    """Evaluates batches in chunks, on any device.

    Args:
        n_atoms: The number of atoms.
        terms: The terms; they are moved to the device and precision.
        dtype: Precision of the arithmetic.
        device: Where to compute.
        compiled: Whether to fuse the operations with ``torch.compile``.
        memory: Bound [MiB] of the intermediate results of one chunk.
    """

    def __init__(
        self,
        n_atoms: int,
        terms: Sequence[Term],
        *,
        dtype: torch.dtype,
        device: torch.device,
        compiled: bool,
        memory: float,
    ) -> None:
        self.dtype, self.device = dtype, device
        self.module = _Energy(n_atoms, list(terms)).to(device=device, dtype=dtype)
        self._compiled: dict[bool, Callable] | None = {} if compiled else None
        largest = max((term.elements_per_configuration(n_atoms) for term in terms), default=1)
        chunk = max(1, int(memory * _MEBIBYTE / (largest * dtype.itemsize)))
        if device.type == "cpu":
            chunk = min(chunk, _LARGEST_CHUNK)
        self.chunk_size = 1 << (chunk.bit_length() - 1)

    @property
    def mode(self) -> str:
        """The mode in use: "eager" or "compiled"."""
        return "eager" if self._compiled is None else "compiled"

    def evaluate(
        self, positions: torch.Tensor, with_forces: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return energies and forces; see `Potential._evaluate`."""
        energies, forces = [], []
        for chunk in positions.split(self.chunk_size):
            x = chunk.to(device=self.device, dtype=self.dtype).permute(1, 2, 0).contiguous()
            count = x.shape[2]
            if self._compiled is not None and count < self.chunk_size:
                # One shape, one compilation: fill up with the last configuration.
                x = torch.cat([x, x[..., -1:].expand(-1, -1, self.chunk_size - count)], dim=2)
            energy, gradient = self._energy_and_gradient(x, with_forces)
            energies.append(energy[:count].to(positions.device))
            if gradient is not None:
                forces.append(-gradient[..., :count].permute(2, 0, 1).to(positions.device))
        return torch.cat(energies), (torch.cat(forces) if with_forces else None)

    def _energy_and_gradient(
        self, x: torch.Tensor, with_gradient: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if self._compiled is None:
            return self.module.evaluate(x, with_gradient)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, while it compiles
                if with_gradient not in self._compiled:
                    # Traced to a flat list of operations first, derivatives included: the compiler then has
                    # no Python to follow.
                    graph = make_fx(partial(self.module.evaluate, with_gradient=with_gradient))(x)
                    self._compiled[with_gradient] = torch.compile(graph, dynamic=False, fullgraph=True)
                with torch.no_grad():
                    return self._compiled[with_gradient](x)
        except Exception as error:
            result = self.module.evaluate(
                x, with_gradient
            )  # if this fails too, it is not the compiler's fault
            self._compiled = None
            reason = " ".join(str(error).split())[:200]
            warnings.warn(
                f"torch.compile failed, so the potential runs uncompiled, several times slower: {reason}",
                RuntimeWarning,
                stacklevel=2,
            )
            return result


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
        energy = x.sum((0, 1)) * 0.0  # nothing, or NaN: a configuration that is not finite has no energy
        for term in self.terms:
            energy = energy + term(x, pairs)
        return energy

    def evaluate(self, x: torch.Tensor, with_gradient: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return energies and, if asked for, their gradient with the coordinates' shape."""
        if not with_gradient:
            with torch.no_grad():
                return self(x), None
        with torch.inference_mode(False), torch.enable_grad():
            x = x.clone().detach().requires_grad_(True)
            energy = self(x)
            (gradient,) = torch.autograd.grad(energy.sum(), x)
        return energy.detach(), gradient
