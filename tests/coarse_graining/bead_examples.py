"""Bead configurations, and the prior of the bead energy by numpy from its formula."""

from itertools import combinations

import numpy as np
import torch


def chains(n, n_beads, seed=0, *, hands=(1,), spread=0.08):
    """Return chains of beads about 0.4 nm apart that differ in all distances, of the given hands."""
    rng = np.random.default_rng(seed)
    steps = np.array([[0.4, 0.0, 0.0], [0.1, 0.37, 0.0], [0.15, 0.1, 0.35], [0.38, -0.1, 0.05]])
    mean = np.concatenate([np.zeros((1, 3)), np.cumsum(np.resize(steps, (n_beads - 1, 3)), axis=0)])
    beads = mean + spread * rng.normal(size=(n, n_beads, 3))
    beads[:, :, 2] *= rng.choice(hands, size=n)[:, None]
    return torch.as_tensor(beads)


def rotation(seed=0):
    """Return a rotation with shape=(3, 3)."""
    matrix, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return torch.as_tensor(matrix * np.sign(np.linalg.det(matrix)))


def invariants(beads):
    """Return distances and volumes by numpy with shape=(n, n_invariants)."""
    beads = np.asarray(beads)
    n_beads = beads.shape[1]
    columns = [np.linalg.norm(beads[:, b] - beads[:, a], axis=1) for a, b in combinations(range(n_beads), 2)]
    steps = np.diff(beads, axis=1)
    columns += [np.linalg.det(steps[:, k : k + 3]) for k in range(n_beads - 3)]
    return np.stack(columns, axis=1)


def spanning_tree(n_beads, costs):
    """Return the pairs of the cheapest tree of all, by index."""
    pairs, trees = list(combinations(range(n_beads), 2)), []
    for tree in combinations(range(len(pairs)), n_beads - 1):
        reached = {0}
        for _ in tree:
            reached |= {bead for k in tree for bead in pairs[k] if reached & set(pairs[k])}
        if len(reached) == n_beads:
            trees.append(tree)
    return min(trees, key=lambda tree: sum(costs[k] for k in tree))


def prior_parts(data, found):
    """Return springs, repulsion and walls [kT] of invariants ``found``, where ``data`` are those of the data."""
    mean, deviation = data.mean(0), data.std(0, ddof=1)
    n_beads = next(n for n in range(3, 20) if n * (n - 1) // 2 + n - 3 == data.shape[1])
    n = n_beads * (n_beads - 1) // 2
    springs = set(np.flatnonzero(deviation[:n] < 0.1 * mean[:n])) | set(spanning_tree(n_beads, deviation[:n]))
    standard = (found - mean) / deviation
    ranges = (data - mean) / deviation
    spring, repulsion, wall = np.zeros((3, len(found)))
    for k in range(data.shape[1]):
        beyond = np.maximum(standard[:, k] - ranges[:, k].max(), ranges[:, k].min() - standard[:, k])
        wall += 2 * np.maximum(beyond - 1, 0) ** 2
        if k in springs:
            spring += standard[:, k] ** 2 / 2
        elif k < n:
            repulsion += (data[:, k].min() / found[:, k]) ** 12
    return spring, repulsion, wall


def prior(data, beads):
    """Return the prior [kT] of bead configurations with shape=(n,)."""
    return sum(prior_parts(invariants(data), invariants(beads)))


def randomised(energy, scale=0.5, seed=0):
    """Return a bead energy whose network is no longer zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in energy.network.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator).to(parameter))
    return energy
