"""Ways of sampling alanine dipeptide at 300 K: their effective samples per energy evaluation and second."""

from openmm_bg.sampling_benchmark.benchmark import run_benchmark
from openmm_bg.sampling_benchmark.methods import FLOW_ASSISTED, METHODS
from openmm_bg.sampling_benchmark.settings import BenchmarkSettings

__all__ = ["FLOW_ASSISTED", "METHODS", "BenchmarkSettings", "run_benchmark"]
