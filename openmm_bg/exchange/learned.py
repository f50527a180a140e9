"""A replica-exchange sampler of openmmtools that exchanges replicas through the map of a trained flow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import mpiplus
import numpy as np
import torch
from openmm import unit
from openmmtools.multistate import ParallelTemperingSampler

from openmm_bg.errors import InputError
from openmm_bg.mcmc import registry
from openmm_bg.mcmc.host import host_system, reduced_energies
from openmm_bg.mcmc.mpi import check_processes
from openmm_bg.mcmc.proposal_move import check_model, leap_frog_step, refuse_outside
from openmm_bg.mcmc.randomness import draw_key, log_uniform, random_generator, stream
from openmm_bg.mcmc.target import Target
from openmm_bg.mcmc.velocities import new_velocities
from openmm_bg.threads import single_threaded
from openmm_bg.units import kelvin

if TYPE_CHECKING:
    import os

    from openmm_bg.generator import BoltzmannGenerator


class _End(NamedTuple):
    """Where a replica would go: the gain of its log-weight, positions [nm], and its energy over k [K]."""

    gain: float
    positions: np.ndarray
    energy: float


class _Mapped(NamedTuple):
    """A replica after an accepted exchange."""

    replica: int
    positions: unit.Quantity
    velocities: unit.Quantity
    energies: np.ndarray


class _Outcome(NamedTuple):
    """What exchanges have changed: the replicas' states, mapped replicas, and counts by pairs of states."""

    states: np.ndarray
    mapped: list[_Mapped]
    accepted: np.ndarray
    proposed: np.ndarray


class LearnedReplicaExchangeSampler(ParallelTemperingSampler):
    r"""Parallel tempering that maps configurations from one temperature to the other before it exchanges them.

    Ordinary replica exchange needs a ladder of temperatures, dense enough that a configuration of one is probable
    at the next. A flow takes a configuration x of temperature :math:`T_i` to its latents, scales these to
    :math:`T_j`, and takes them back to a configuration :math:`x' = M_{ij}(x)`, so that two temperatures can be
    far apart. An exchange of :math:`x_i` and :math:`x_j` is accepted with the probability

    .. math:: \min\{1, \exp[u_i(x_i) - u_j(M_{ij} x_i) + \log|\det \partial M_{ij}(x_i)|
                          + u_j(x_j) - u_i(M_{ji} x_j) + \log|\det \partial M_{ji}(x_j)|]\}

    which is exact for every flow, since :math:`M_{ji}` is the inverse of :math:`M_{ij}`. The determinant is the
    ratio of the flow's densities at both ends, :math:`q_i(x) / q_j(x')`. A flow with auxiliary momenta maps them
    together with the positions; they are drawn anew for each attempt, which is a Gibbs step, and then forgotten.

    The mapped configuration keeps the place and orientation of the old one, and gets velocities of its new
    temperature.

    It is created, run, stored and resumed like openmmtools' `ParallelTemperingSampler`. With the mixing scheme
    ``"swap-all"`` an iteration pairs the replicas at random, and attempts an exchange of each pair;
    ``"swap-neighbors"`` pairs neighbouring temperatures, from the first or the second one on.

    Under MPI (``mpirun -n 2 python run.py``, with mpi4py) the processes share the replicas. The first one
    exchanges, and the others take over what it did. Moves by a flow draw the same random numbers as in a single
    process; OpenMM's integrators have numbers of their own in each.

    Source: Noe, Olsson, Koehler and Wu, Science 365, eaaw1147 (2019), the maps; Invernizzi, Kraemer, Clementi and
    Noe, J. Phys. Chem. Lett. 13, 11643 (2022), learned replica exchange.

    Args:
        model: The directory of a saved model, or a generator that was saved to or loaded from one.
        timestep: The time step [ps] of a leap-frog integrator that continues from the new velocities, as
            in `FlowMove`.
        model_hash: The hash of the model, which is taken from it if not given.
        **kwargs: As of `ParallelTemperingSampler`: ``mcmc_moves``, ``number_of_iterations``,
            ``replica_mixing_scheme`` and so on.

    Raises:
        InputError: If the model or another argument cannot be used, or mpirun has started processes that do not
            find each other.
        ModelFileError: If the model is missing, damaged, or was changed since the run was created.
    """

    def __init__(
        self,
        model: str | os.PathLike | BoltzmannGenerator | None = None,
        timestep: Any = None,
        model_hash: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Load the model, unless this process has it already."""
        check_processes()
        if model is None:
            raise InputError("LearnedReplicaExchangeSampler needs a model: the directory of a trained one.")
        # openmmtools stores each argument by its name, and calls this with them when it resumes.
        self._model = registry.resolve(model)
        self._model_hash = model_hash or registry.current_hash(self._model)
        self._timestep = leap_frog_step(timestep)
        registry.load(self._model, self._model_hash)
        super().__init__(**kwargs)

    @property
    def generator(self) -> BoltzmannGenerator:
        """The model, which all of this process share."""
        return registry.load(self._model, self._model_hash)

    def _pre_write_create(self, thermodynamic_states: Any, *args: Any, **kwargs: Any) -> None:
        """Check that the model fits, before anything is written."""
        for state in thermodynamic_states:
            check_model(self.generator, host_system(state), kelvin(state.temperature))
        super()._pre_write_create(thermodynamic_states, *args, **kwargs)

    def _mix_replicas(self) -> np.ndarray:
        """Attempt exchanges, and return the state of each replica; every process does the same."""
        outcome = self._exchange_on_first_process()
        if isinstance(outcome, Exception):
            raise outcome
        states, mapped, accepted, proposed = outcome
        self._n_accepted_matrix[:, :] = accepted
        self._n_proposed_matrix[:, :] = proposed
        for replica, positions, velocities, energies in mapped:
            self._sampler_states[replica].positions = positions
            self._sampler_states[replica].velocities = velocities
            self._energy_thermodynamic_states[replica] = energies
        return states

    @mpiplus.on_single_node(0, broadcast_result=True)
    def _exchange_on_first_process(self) -> _Outcome | Exception:
        """Return what the first process has done, which alone knows all replicas, on all of them."""
        try:
            return self._exchange()
        except Exception as error:  # the others wait, and would wait forever
            return error

    def _exchange(self) -> _Outcome:
        states = np.array(self._replica_thermodynamic_states)
        accepted, proposed = (np.zeros((self.n_states, self.n_states), dtype=np.int64) for _ in range(2))
        mapped = []
        pairs = self._pairs(states)
        moves = [move for i, j in pairs for move in ((i, states[i], states[j]), (j, states[j], states[i]))]
        ends = self._map(moves)
        for (i, j), one, other in zip(pairs, ends[0::2], ends[1::2], strict=True):
            state_i, state_j = states[i], states[j]
            proposed[[state_i, state_j], [state_j, state_i]] += 1
            if log_uniform(1)[0] <= one.gain + other.gain:
                accepted[[state_i, state_j], [state_j, state_i]] += 1
                states[i], states[j] = state_j, state_i
                mapped += [self._mapped(i, state_j, one), self._mapped(j, state_i, other)]
        return _Outcome(states, mapped, accepted, proposed)

    def _propagate_replicas(self) -> None:
        """Propagate all replicas, each with random numbers that do not depend on the process that does it."""
        self._stream_key = self._draw_key_on_first_process()
        super()._propagate_replicas()

    @mpiplus.on_single_node(0, broadcast_result=True)
    def _draw_key_on_first_process(self) -> int:
        return draw_key()

    def _propagate_replica(self, replica_id: int) -> Any:
        with stream(self._stream_key, replica_id):
            return super()._propagate_replica(replica_id)

    def _pairs(self, states: np.ndarray) -> list[tuple[int, int]]:
        """Return pairs of replicas; each replica is in one of them at most, and the choice does not depend on x."""
        if self.replica_mixing_scheme is None:
            return []
        if self.replica_mixing_scheme == "swap-neighbors":
            first = int(torch.randint(2, (1,), generator=random_generator())) if len(states) > 2 else 0
            order = np.argsort(states)[first:]
        else:
            order = torch.randperm(len(states), generator=random_generator()).numpy()
        return [(int(i), int(j)) for i, j in zip(order[0::2], order[1::2], strict=False)]

    def _map(self, moves: list[tuple[int, int, int]]) -> list[_End]:
        """Map replicas, each from its state to another: all at once, since a network is as fast for several."""
        if not moves:
            return []
        flow = self.generator.flow
        old, new = ([self._target(move[k]) for move in moves] for k in (1, 2))
        positions = [self._sampler_states[replica].positions for replica, _, _ in moves]
        start = torch.tensor(np.array([x.value_in_unit(unit.nanometer) for x in positions], dtype=np.float64))
        momenta = torch.cat([target.sample_momenta(1) for target in old])
        temperatures = (
            torch.tensor([target.temperature for target in one], dtype=torch.float64) for one in (old, new)
        )
        with single_threaded():
            end, end_momenta, log_determinant = flow.transport(start, momenta, *temperatures, frame=start)
        if torch.isneginf(log_determinant).any():
            refuse_outside(self._model, -np.inf)
        ends = []
        for k, (here, there) in enumerate(zip(old, new, strict=True)):
            row = slice(k, k + 1)
            reduced = there.reduced_energies(end[row])
            before = here.log_weights(here.reduced_energies(start[row]), momenta[row], np.zeros(1))
            after = there.log_weights(reduced, end_momenta[row], -log_determinant[row].numpy())
            gain = float(there.log_ratios(after, before)[0])
            ends.append(_End(gain, end[k].numpy(), float(reduced[0]) * there.temperature))
        return ends

    def _mapped(self, replica: int, state: int, end: _End) -> _Mapped:
        """Return a replica as it is after an exchange, with velocities of its new state."""
        new = self._thermodynamic_states[state]
        context, _ = self.energy_context_cache.get_context(new)
        velocities = new_velocities(
            context, end.positions, host_system(new).masses, kelvin(new.temperature), self._timestep
        )
        temperatures = np.array([kelvin(one.temperature) for one in self._thermodynamic_states])
        positions = unit.Quantity(end.positions, unit.nanometer)
        return _Mapped(replica, positions, velocities, end.energy / temperatures)

    def _target(self, state: int) -> Target:
        thermodynamic_state = self._thermodynamic_states[state]
        temperature = kelvin(thermodynamic_state.temperature)
        contexts = self.energy_context_cache
        return Target(
            self.generator.flow, temperature, lambda x: reduced_energies(thermodynamic_state, x, contexts)
        )
