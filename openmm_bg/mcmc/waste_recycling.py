"""Averages over all candidates of multiple-try moves, those that were not chosen included."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

from openmm_bg.errors import InputError
from openmm_bg.statistics import Estimate, chain_mean
from openmm_bg.units import kelvin

Functions = Mapping[str, Callable[[np.ndarray], np.ndarray]]

# Recorders belong to the process and not to a move, whose state openmmtools stores in every iteration.
_recorders: list[WasteRecycling] = []


class WasteRecycling:
    r"""Average functions over the candidates of `MultipleTryMove` while a sampler runs.

    Each try has a current configuration x and candidates from the flow, and with their weights w

    .. math:: \frac{\sum_k w(y_k) f(y_k) + w(x) f(x)}{\sum_k w(y_k) + w(x)}

    has the Boltzmann average of f as its expectation, for any number of candidates, once the chain is stationary:
    it is the expectation of f after a resampling step, which keeps the distribution. So averages over tries have
    no bias beyond that of the chain, and use every energy that was evaluated.

    Use it around the run, in the process that makes it::

        with WasteRecycling({"phi > 0": lambda x: dihedrals(x, phi)[:, 0] > 0}) as recycled:
            sampler.run()
        value, stderr = recycled.mean("phi > 0", temperature=300)

    Source: Frenkel, PNAS 101, 17571 (2004); Andrieu, Lee and Vihola, Bernoulli 24, 842 (2018).

    Args:
        functions: Functions by name, of positions [nm] with shape=(n, n_atoms, 3) to values with shape=(n,). They
            are not called with positions of zero weight.
    """

    def __init__(self, functions: Functions) -> None:
        self._functions = dict(functions)
        self._values: dict[str, dict[str, list[float]]] = {}
        self._energy_functions: dict[str, str] = {}

    def __enter__(self) -> Self:
        """Start to record."""
        _recorders.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, and keep what was recorded."""
        _recorders.remove(self)

    def series(self, name: str, temperature: Any) -> np.ndarray:
        """Return the average of each try at a temperature [K], in order, with shape=(n_tries,).

        Raises:
            InputError: If there is no such function, or no try was recorded at that temperature.
        """
        temperature = kelvin(temperature)
        if name not in self._functions:
            raise InputError(f"There is no {name!r} among {', '.join(self._functions)}.")
        if (found := self._values.get(_key(temperature))) is None:
            known = ", ".join(self._values) or "none"
            raise InputError(
                f"No try was recorded at {temperature:g} K; the temperatures [K] are: {known}. Is there a "
                "MultipleTryMove, and did it run in this process inside the with statement?"
            )
        return np.array(found[name])

    def mean(self, name: str, temperature: Any) -> Estimate:
        """Return the average over all tries at a temperature [K], and its standard error for a correlated chain.

        Raises:
            InputError: If there is no such function, or there are fewer than two tries at that temperature.
        """
        return chain_mean(self.series(name, temperature))

    def _record(
        self, temperature: float, positions: np.ndarray, weights: np.ndarray, energy_function: str
    ) -> None:
        if self._energy_functions.setdefault(_key(temperature), energy_function) != energy_function:
            raise InputError(
                f"Tries with different energy functions were made at {temperature:g} K, which have no average in "
                "common: record the states of a run one at a time."
            )
        values = self._values.setdefault(_key(temperature), {name: [] for name in self._functions})
        for name, function in self._functions.items():
            found = np.asarray(function(positions), dtype=np.float64)
            if found.shape != weights.shape:
                raise InputError(
                    f"The function {name!r} must return one number for each configuration, with "
                    f"shape=({len(weights)},), not shape={found.shape}."
                )
            values[name].append(float(weights @ found))


def is_wanted() -> bool:
    """Return whether anything records."""
    return bool(_recorders)


def record(
    temperature: float, positions: torch.Tensor, weights: np.ndarray, energy_function: str = ""
) -> None:
    """Hand a try to all that record.

    Args:
        temperature: The temperature [K].
        positions: The current configuration and the candidates [nm] with shape=(n, n_atoms, 3).
        weights: Their weights with shape=(n,), which sum to one.
        energy_function: A name of the energy function that no other one has.

    Raises:
        InputError: If there was another energy function at that temperature.
    """
    seen = weights > 0
    for recorder in _recorders:
        recorder._record(
            temperature, positions[torch.as_tensor(seen)].numpy(), weights[seen], energy_function
        )


def _key(temperature: float) -> str:
    return f"{temperature:.3f}"
