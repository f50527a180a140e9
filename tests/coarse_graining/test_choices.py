"""Maps that are asked for by name: which options they have, and what is said of a learned one in pieces."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from openmm_bg.coarse_graining import choices
from openmm_bg.coarse_graining.choices import MapChoice, choose_map
from openmm_bg.coarse_graining.maps import centroid_map
from openmm_bg.errors import InputError, ReliabilityWarning


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_beads": 6}, "A number of beads (--beads) is for the map 'learned' only, not for 'atoms'"),
        ({"kind": "residues", "n_beads": 0}, "A number of beads (--beads) is for the map 'learned' only"),
        ({"kind": "residues", "by_atom": True}, "A kind for every atom (--by-atom) is for the map 'learned'"),
        (
            {"kind": "residues", "atoms": "name CA"},
            "(--atoms) is for the map 'atoms' only, not for 'residues'",
        ),
        ({"kind": "learned", "atoms": "name CA"}, "(--atoms) is for the map 'atoms' only, not for 'learned'"),
    ],
)
def test_options_that_a_map_does_not_have_are_refused(options, message):
    with pytest.raises(InputError, match=re.escape(message)):
        MapChoice(**options)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"kind": "atoms", "noisy": False, "atoms": "name N CA C"}),
        ({"kind": "residues", "noisy": True, "seed": 3}, {"kind": "residues", "noisy": True}),
        (
            {"kind": "learned", "seed": 3},
            {"kind": "learned", "noisy": False, "n_beads": 6, "by_atom": False, "seed": 3},
        ),
    ],
)
def test_options_that_were_used_are_recorded(options, expected):
    assert MapChoice(**options).used() == expected


class Reached(Exception):
    """What a network is asked for is known."""


@pytest.mark.parametrize("by_atom", [False, True])
def test_every_atom_of_a_kind_of_its_own(monkeypatch, by_atom):
    def learn_map(positions, forces, bonds, masses, settings, **_):
        assert (settings.by_atom, settings.n_beads, settings.seed) == (by_atom, 4, 2)
        raise Reached

    monkeypatch.setattr(choices, "learn_map", learn_map)
    data = SimpleNamespace(positions=np.zeros((3, 5, 3)), system=SimpleNamespace(bonds=None, masses=None))
    potential = SimpleNamespace(energy_and_forces=lambda x: (None, x))
    with pytest.raises(Reached):
        choose_map(MapChoice("learned", n_beads=4, by_atom=by_atom, seed=2), data, potential)


def test_a_learned_map_in_pieces_is_warned_of(monkeypatch):
    pieces = [1, 2, 3]
    found = centroid_map(6, [[0, 1], [2, 3], [4, 5]])
    monkeypatch.setattr(choices, "_learned_map", lambda *_: (found, {"pieces": pieces}))
    with pytest.warns(ReliabilityWarning, match=r"2 of the 3 beads .*\(1, 2, counted from 0\).*--by-atom, "):
        choose_map(MapChoice("learned", n_beads=3), SimpleNamespace(system=None), None)
    with pytest.warns(
        ReliabilityWarning, match="learn it with another --seed"
    ):  # nothing that was done already
        choose_map(MapChoice("learned", n_beads=3, by_atom=True), SimpleNamespace(system=None), None)
    pieces[:] = [1, 1, 1]
    choose_map(MapChoice("learned", n_beads=3), SimpleNamespace(system=None), None)  # warnings are errors
