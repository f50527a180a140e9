"""A flow of rational-quadratic splines on the features of a molecule."""

from __future__ import annotations

import copy
import math

import torch
from nflows.transforms import CompositeTransform

from openmm_bg.flows.base import PositionFlow, Ratio
from openmm_bg.flows.layers import spline_layers
from openmm_bg.transforms.base import Coordinates
from openmm_bg.transforms.couplings import SplineCoupling


class SplineFlow(PositionFlow):
    """Coupling layers of circular and linear splines, with a base that scales with temperature.

    The base is uniform on the angles and standard normal on the other features. Sampling at a temperature
    T multiplies the normal's variance by T / T_train and leaves the angles uniform: the density is exact at
    every temperature, and near the Boltzmann distribution where the features are near harmonic.

    Args:
        coordinates: The fitted map between positions and features.
        temperature: The temperature of training [K].
        n_layers: Coupling layers. Every two are conditioned on complementary random halves of the features.
        n_bins: Bins of each spline.
        bound: The linear features' splines act within this many standard deviations.
        hidden_features: Width of the conditioners.
        n_blocks: Residual blocks of the conditioners.
        conditioned: Whether the conditioners see the temperature, as log(T / T_train). The flow then learns another
            map at every temperature that it is trained at, where scaling the base is no more than a start.
        seed: Seed of masks, shifts and initial weights.
    """

    def __init__(
        self,
        coordinates: Coordinates,
        temperature: float,
        *,
        n_layers: int = 12,
        n_bins: int = 8,
        bound: float = 6.0,
        hidden_features: int = 128,
        n_blocks: int = 1,
        conditioned: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(coordinates, temperature)
        self._settings = {
            "n_layers": n_layers,
            "n_bins": n_bins,
            "bound": bound,
            "hidden_features": hidden_features,
            "n_blocks": n_blocks,
            "conditioned": conditioned,
            "seed": seed,
        }
        self._conditioned = conditioned
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = spline_layers(
                coordinates.circular.clone(),
                n_layers,
                n_bins=n_bins,
                bound=bound,
                hidden_features=hidden_features,
                n_blocks=n_blocks,
                generator=generator,
                n_context=int(conditioned),
            )
        self.transform = CompositeTransform(layers)

    @property
    def conditioned(self) -> bool:
        """Whether the network itself depends on the temperature, and not the base alone."""
        return self._conditioned

    def set_dtype(self, dtype: torch.dtype) -> None:
        """Set the precision of the network; the coordinates stay in float64."""
        self.transform.to(dtype)

    def state_forward(self, state: torch.Tensor, ratio: Ratio = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Map features to latents."""
        return self.transform(state, self._context(state, ratio))

    def state_inverse(self, z: torch.Tensor, ratio: Ratio = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Map latents to features."""
        return self.transform.inverse(z, self._context(z, ratio))

    def _context(self, state: torch.Tensor, ratio: Ratio) -> torch.Tensor | None:
        if not self._conditioned:
            return None
        if isinstance(ratio, torch.Tensor):
            return ratio.log().to(state)[:, None]
        return state.new_full((len(state), 1), math.log(ratio))

    def with_condition(self) -> SplineFlow:
        """Return a copy whose conditioners see the temperature, and at first make nothing of it.

        It has the same density at every temperature as this flow, until it is trained.
        """
        if self._conditioned:
            return copy.deepcopy(self)
        flow = SplineFlow(self.coordinates, self.temperature, **{**self._settings, "conditioned": True})
        flow.set_dtype(self.dtype)
        state = self.state_dict()
        for name, tensor in flow.state_dict().items():
            if name in state and state[name].shape != tensor.shape:
                state[name] = torch.cat([state[name], torch.zeros_like(tensor[:, state[name].shape[1] :])], 1)
        flow.load_state_dict(state)
        for layer in flow.transform._transforms:
            if isinstance(layer, SplineCoupling) and layer.sees_nothing:
                # It has seen a one, which was its only input, and now sees the temperature in that place.
                first = layer.conditioner.initial_layer
                with torch.no_grad():
                    first.bias += first.weight[:, 0]
                    first.weight.zero_()
        return flow.to(self._device)
