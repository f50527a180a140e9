"""The log of a training as TensorBoard's event files."""

from __future__ import annotations

import math
import time
import warnings
from pathlib import Path
from typing import Any

from openmm_bg.errors import InputError

_GROUPS = {
    "loss_ml": "loss/maximum_likelihood",
    "loss_dispersion": "loss/dispersion",
    "loss_kl": "loss/reverse_kl",
    "held_out_nll": "validation/held_out_nll",
    "kl": "validation/kl",
    "ess": "validation/ess",
    "outside_domain": "validation/outside_domain",
    "batch_ess": "training/batch_ess",
    "kl_weight": "training/kl_weight",
    "energy_evaluations": "training/energy_evaluations",
    "skipped_steps": "training/skipped_steps",
}


class TensorBoardLog:
    """Writes the rows of a training's log as scalars; look at them with ``tensorboard --logdir DIRECTORY``.

    Nothing is written before the first row, so that an interrupted run leaves a directory that can be continued.
    The first call of a continued run writes all rows again: TensorBoard forgets those of its predecessors.

    Args:
        directory: Where the event files go.

    Raises:
        InputError: If TensorBoard is not installed.
    """

    def __init__(self, directory: Path) -> None:
        self._writer_class = _import_writer()
        self._directory = directory
        self._writer: Any = None
        self._n_written = 0

    def write(self, log: list[dict[str, float]]) -> None:
        """Write the rows of a log that have not been written yet."""
        if self._writer is None:
            self._writer = self._writer_class(str(self._directory), purge_step=0)
            self._start = time.time() - (log[-1]["seconds"] if log else 0.0)
        for row in log[self._n_written :]:
            for name, tag in _GROUPS.items():
                if name in row and math.isfinite(row[name]):
                    self._writer.add_scalar(
                        tag, row[name], int(row["step"]), walltime=self._start + row["seconds"]
                    )
        self._n_written = len(log)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()


def _import_writer() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TensorBoard's dependencies announce what they will remove
            from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "Logging for TensorBoard needs the package tensorboard: pip install 'openmm-bg[tensorboard]', or train "
            "without --tensorboard."
        ) from error
    return SummaryWriter
