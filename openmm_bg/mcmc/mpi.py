"""Runs of several processes: how many mpirun has started, and whether they can find each other."""

from __future__ import annotations

import os

from openmm_bg.errors import InputError

# What Open MPI, MPICH and its relatives, MVAPICH and Slurm's srun tell a process: its number, and how many there
# are. SLURM_NTASKS is no such variable, since batch scripts have it too, which run once.
_VARIABLES = (
    ("mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("mpirun", "PMI_RANK", "PMI_SIZE"),
    ("mpirun", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    ("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)


def rank_and_size() -> tuple[int, int]:
    """Return the number of this process and how many were started together; (0, 1) for one on its own."""
    _, rank, size = _launched()
    return rank, size


def _launched() -> tuple[str, int, int]:
    """Return what has started this process, its number, and how many there are."""
    for launcher, rank, size in _VARIABLES:
        values = os.environ.get(rank, ""), os.environ.get(size, "")
        if all(value.isdecimal() for value in values):
            return launcher, int(values[0]), int(values[1])
    return "", 0, 1


def check_processes() -> None:
    """Refuse processes that were started together and do not find each other.

    Without mpi4py each of them would be a whole run, and write to the same file. Whoever wants independent
    runs can set ``mpiplus.disable_mpi = True``.

    Raises:
        InputError: If mpi4py is missing, or is of another MPI.
    """
    import mpiplus

    launcher, _, size = _launched()
    if size == 1 or mpiplus.disable_mpi:
        return
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # the latter if it finds no MPI library
        raise InputError(
            f"{launcher} has started {size} processes, but mpi4py cannot be imported ({_one_line(error)}), so that "
            "each of them would be a run of its own and write to the same file: install it (pip install mpi4py), "
            "or start a single process."
        ) from error
    if (found := MPI.COMM_WORLD.Get_size()) != size:
        raise InputError(
            f"{launcher} has started {size} processes, but mpi4py finds {found}: it was built for another MPI than "
            f"that of this {launcher}; install both from the same source, or start a single process."
        )


def refuse_several_processes() -> None:
    """Refuse processes that were started together, for what a single one does.

    Raises:
        InputError: If there are several, and not said to be independent, see `check_processes`.
    """
    import mpiplus

    launcher, _, size = _launched()
    if size > 1 and not mpiplus.disable_mpi:
        raise InputError(
            f"{launcher} has started {size} processes, but this run is made for one, and each would repeat it: "
            f"start it without {launcher}, or use LearnedReplicaExchangeSampler, or a sampler of openmmtools with "
            "FlowMove, in a script of your own."
        )


def _one_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
