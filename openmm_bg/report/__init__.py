"""Reports: one self-contained HTML page about a run, a model, samples or a replica exchange."""

from openmm_bg.report.write import write_report

__all__ = ["write_report"]
