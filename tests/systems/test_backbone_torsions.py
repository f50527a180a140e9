"""Names and atoms of backbone torsions where a chain closes, and where chains have the same numbers."""

import numpy as np
from ring_examples import cyclic_peptide, disulfide

from openmm_bg.analysis import torsion_pairs


def test_every_residue_of_a_cyclic_peptide_has_both():
    molecule = cyclic_peptide("GLY")
    atoms = {(int(atom.residue.id), atom.name): atom.index for atom in molecule.topology.atoms()}
    assert len(molecule.torsions) == 8
    for k, before, after in ((1, 4, 2), (2, 1, 3), (3, 2, 4), (4, 3, 1)):
        own = tuple(atoms[k, name] for name in ("N", "CA", "C"))
        assert molecule.torsions[f"phi {k} (GLY)"] == (atoms[before, "C"], *own)
        assert molecule.torsions[f"psi {k} (GLY)"] == (*own, atoms[after, "N"])


def test_chains_with_the_same_numbers():
    """Both of the residues are CYS 1; none of their torsions may be lost."""
    molecule = disulfide()
    names = [f"{kind} 1 (CYS, chain {chain})" for kind in ("phi", "psi") for chain in (1, 2)]
    assert list(molecule.torsions) == names
    chain_of = np.array([atom.residue.chain.index for atom in molecule.topology.atoms()])
    for name, indices in molecule.torsions.items():
        assert set(chain_of[list(indices)].tolist()) == {int(name[-2]) - 1}
    assert list(torsion_pairs(molecule.torsions)) == ["1 (CYS, chain 1)", "1 (CYS, chain 2)"]
