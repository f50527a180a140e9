"""Machine code for the terms of a `TorchPotential` on the CPU."""
