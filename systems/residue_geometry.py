"""Standard geometry of the twenty amino acids and of caps, as tables of internal coordinates.

A row of a table places one atom: its name, the atoms that its bond, angle and dihedral refer to, the bond length
[nm], the angle [degrees] and the dihedral [degrees]. A minus sign in front of an atom or a torsion stands for the
residue before. A dihedral is a number, a torsion of the residue (phi, psi, omega, chi1, ...), or the sum of both.

Sources: bond lengths and angles of heavy atoms are those of Engh and Huber, International Tables for
Crystallography F (2001), chapter 18.3, with the ring of neutral histidine, and with the angles of proline's ring
adjusted by a degree so that it closes. Hydrogens have the lengths that are usual in force fields. The default chi
are the commonest rotamers of Lovell et al., Proteins 40 (2000) 389. Atoms are named as in the Protein Data Bank; of
equal atoms with three other neighbours the numbers run clockwise, seen from the backbone (IUPAC).

Protonation is that of pH 7: Asp and Glu are anions, Lys and Arg cations, Cys is a thiol, Tyr a phenol, and ends
without caps are charged. His is neutral with its hydrogen on N-epsilon (AMBER's HIE), the commoner tautomer.
"""

from __future__ import annotations

BACKBONE = """
N    -C  -CA -N   0.1336 117.2 -psi
CA    N  -C  -CA  0.1459 121.7 -omega
C     CA  N  -C   0.1525 111.0 phi
O     C   CA  N   0.1229 120.1 psi+180
H     N  -C  -CA  0.1010 119.2 -omega+180
HA    CA  C   N   0.1090 108.0 -118.5
"""

GLYCINE = """
N    -C  -CA -N   0.1336 117.2 -psi
CA    N  -C  -CA  0.1456 122.3 -omega
C     CA  N  -C   0.1514 113.1 phi
O     C   CA  N   0.1232 120.6 psi+180
H     N  -C  -CA  0.1010 119.2 -omega+180
HA2   CA  C   N   0.1090 108.5 -120
HA3   CA  C   N   0.1090 108.5 120
"""

# A ring with C-gamma endo; N is planar if phi is -71 degrees.
PROLINE = """
N    -C  -CA -N   0.1338 117.2 -psi
CA    N  -C  -CA  0.1468 119.3 -omega
C     CA  N  -C   0.1524 112.1 phi
O     C   CA  N   0.1228 120.1 psi+180
HA    CA  C   N   0.1090 108.5 -123
CB    CA  C   N   0.1531 111.0 115
HB2   CB  CA  N   0.1090 110.5 147.2
HB3   CB  CA  N   0.1090 110.5 -92.8
CG    CB  CA  N   0.1495 104.3 27.2
HG2   CG  CB  CA  0.1090 110.5 85.5
HG3   CG  CB  CA  0.1090 110.5 -154.5
CD    CG  CB  CA  0.1502 105.6 -34.5
HD2   CD  CG  CB  0.1090 110.5 147.7
HD3   CD  CG  CB  0.1090 110.5 -92.3
"""

SIDE_CHAINS = {
    "ALA": """
CB    CA  C   N   0.1520 110.1 122.5
HB1   CB  CA  N   0.1090 109.5 60
HB2   CB  CA  N   0.1090 109.5 180
HB3   CB  CA  N   0.1090 109.5 -60
""",
    "ARG": """
CB    CA  C   N   0.1535 110.6 123.1
HB2   CB  CA  N   0.1090 109.0 chi1+120
HB3   CB  CA  N   0.1090 109.0 chi1-120
CG    CB  CA  N   0.1521 113.4 chi1
HG2   CG  CB  CA  0.1090 109.0 chi2+120
HG3   CG  CB  CA  0.1090 109.0 chi2-120
CD    CG  CB  CA  0.1515 111.6 chi2
HD2   CD  CG  CB  0.1090 109.0 chi3+120
HD3   CD  CG  CB  0.1090 109.0 chi3-120
NE    CD  CG  CB  0.1460 111.8 chi3
HE    NE  CD  CG  0.1010 118.2 chi4+180
CZ    NE  CD  CG  0.1326 123.6 chi4
NH1   CZ  NE  CD  0.1326 120.3 0
HH11  NH1 CZ  NE  0.1010 120.0 0
HH12  NH1 CZ  NE  0.1010 120.0 180
NH2   CZ  NE  CD  0.1326 120.3 180
HH21  NH2 CZ  NE  0.1010 120.0 0
HH22  NH2 CZ  NE  0.1010 120.0 180
""",
    "ASN": """
CB    CA  C   N   0.1527 110.6 123.1
HB2   CB  CA  N   0.1090 109.0 chi1+120
HB3   CB  CA  N   0.1090 109.0 chi1-120
CG    CB  CA  N   0.1506 113.4 chi1
OD1   CG  CB  CA  0.1235 121.6 chi2
ND2   CG  CB  CA  0.1324 116.7 chi2+180
HD21  ND2 CG  CB  0.1010 120.0 180
HD22  ND2 CG  CB  0.1010 120.0 0
""",
    "ASP": """
CB    CA  C   N   0.1535 110.6 123.1
HB2   CB  CA  N   0.1090 109.0 chi1+120
HB3   CB  CA  N   0.1090 109.0 chi1-120
CG    CB  CA  N   0.1513 113.4 chi1
OD1   CG  CB  CA  0.1249 118.3 chi2
OD2   CG  CB  CA  0.1249 118.3 chi2+180
""",
    "CYS": """
CB    CA  C   N   0.1526 111.5 123.8
HB2   CB  CA  N   0.1090 109.0 chi1+120
HB3   CB  CA  N   0.1090 109.0 chi1-120
SG    CB  CA  N   0.1812 114.2 chi1
HG    SG  CB  CA  0.1336 96.0  180
""",
    "GLN": """
CB    CA  C   N   0.1535 110.6 123.1
HB2   CB  CA  N   0.1090 109.0 chi1+120
HB3   CB  CA  N   0.1090 109.0 chi1-120
CG    CB  CA  N   0.1521 113.4 chi1
HG2   CG  CB  CA  0.1090 109.0 chi2+120
HG3   CG  CB  CA  0.1090 109.0 chi2-120
CD    CG  CB  CA  0.1506 111.6 chi2
OE1   CD  CG  CB  0.1235 121.6 chi3
NE2   CD  CG  CB  0.1324 116.7 chi3+180
HE21  NE2 CD  CG  0.1010 120.0 180
HE22  NE2 CD  CG  0.1010 120.0 0
""",
    "GLU": """
CB    CA  C   N   0.1535 110.6 123.1
HB2   CB  CA  N   0.1090 109.0 chi1+120
HB3   CB  CA  N   0.1090 109.0 chi1-120
CG    CB  CA  N   0.1517 113.4 chi1
HG2   CG  CB  CA  0.1090 109.0 chi2+120
HG3   CG  CB  CA  0.1090 109.0 chi2-120
CD    CG  CB  CA  0.1515 114.2 chi2
OE1   CD  CG  CB  0.1252 118.3 chi3
OE2   CD  CG  CB  0.1252 118.3 chi3+180
""",
    "HIS": """
CB    CA  C   N   0.1535 110.6 123.1
HB2   CB  CA  N   0.1090 109.0 chi1+120
HB3   CB  CA  N   0.1090 109.0 chi1-120
CG    CB  CA  N   0.1492 113.6 chi1
ND1   CG  CB  CA  0.1383 121.6 chi2
CE1   ND1 CG  CB  0.1323 105.6 180
HE1   CE1 ND1 CG  0.1080 124.5 180
CD2   CG  CB  CA  0.1353 129.1 chi2+180
HD2   CD2 CG  CB  0.1080 127.0 0
NE2   CD2 CG  CB  0.1375 106.5 180
HE2   NE2 CD2 CG  0.1010 126.3 180
""",
    "ILE": """
CB    CA  C   N   0.1544 111.4 124.0
HB    CB  CA  N   0.1090 107.5 chi1+118
CG1   CB  CA  N   0.1536 111.0 chi1
HG12  CG1 CB  CA  0.1090 108.5 chi2+120
HG13  CG1 CB  CA  0.1090 108.5 chi2-120
CG2   CB  CA  N   0.1524 110.9 chi1-124
HG21  CG2 CB  CA  0.1090 109.5 60
HG22  CG2 CB  CA  0.1090 109.5 180
HG23  CG2 CB  CA  0.1090 109.5 -60
CD1   CG1 CB  CA  0.1500 113.9 chi2
HD11  CD1 CG1 CB  0.1090 109.5 60
HD12  CD1 CG1 CB  0.1090 109.5 180
HD13  CD1 CG1 CB  0.1090 109.5 -60
""",
    "LEU": """
CB    CA  C   N   0.1533 110.5 122.9
HB2   CB  CA  N   0.1090 108.5 chi1+120
HB3   CB  CA  N   0.1090 108.5 chi1-120
CG    CB  CA  N   0.1521 115.3 chi1
HG    CG  CB  CA  0.1090 108.0 chi2-118.5
CD1   CG  CB  CA  0.1514 111.0 chi2
HD11  CD1 CG  CB  0.1090 109.5 60
HD12  CD1 CG  CB  0.1090 109.5 180
HD13  CD1 CG  CB  0.1090 109.5 -60
CD2   CG  CB  CA  0.1514 111.0 chi2+123
HD21  CD2 CG  CB  0.1090 109.5 60
HD22  CD2 CG  CB  0.1090 109.5 180
HD23  CD2 CG  CB  0.1090 109.5 -60
""",
    "LYS": """
CB    CA  C   N   0.1535 110.6 123.1
HB2   CB  CA  N   0.1090 109.0 chi1+120
HB3   CB  CA  N   0.1090 109.0 chi1-120
CG    CB  CA  N   0.1521 113.4 chi1
HG2   CG  CB  CA  0.1090 109.0 chi2+120
HG3   CG  CB  CA  0.1090 109.0 chi2-120
CD    CG  CB  CA  0.1520 111.6 chi2
HD2   CD  CG  CB  0.1090 109.0 chi3+120
HD3   CD  CG  CB  0.1090 109.0 chi3-120
CE    CD  CG  CB  0.1508 111.9 chi3
HE2   CE  CD  CG  0.1090 109.0 chi4+120
HE3   CE  CD  CG  0.1090 109.0 chi4-120
NZ    CE  CD  CG  0.1486 111.7 chi4
HZ1   NZ  CE  CD  0.1010 109.5 60
HZ2   NZ  CE  CD  0.1010 109.5 180
HZ3   NZ  CE  CD  0.1010 109.5 -60
""",
    "MET": """
CB    CA  C   N   0.1535 110.6 123.1
HB2   CB  CA  N   0.1090 109.0 chi1+120
HB3   CB  CA  N   0.1090 109.0 chi1-120
CG    CB  CA  N   0.1509 113.3 chi1
HG2   CG  CB  CA  0.1090 109.0 chi2+120
HG3   CG  CB  CA  0.1090 109.0 chi2-120
SD    CG  CB  CA  0.1807 112.4 chi2
CE    SD  CG  CB  0.1774 100.2 chi3
HE1   CE  SD  CG  0.1090 109.5 60
HE2   CE  SD  CG  0.1090 109.5 180
HE3   CE  SD  CG  0.1090 109.5 -60
""",
    "PHE": """
CB    CA  C   N   0.1535 110.6 123.1
HB2   CB  CA  N   0.1090 109.0 chi1+120
HB3   CB  CA  N   0.1090 109.0 chi1-120
CG    CB  CA  N   0.1509 113.9 chi1
CD1   CG  CB  CA  0.1383 120.8 chi2
HD1   CD1 CG  CB  0.1080 119.6 0
CE1   CD1 CG  CB  0.1388 120.8 180
HE1   CE1 CD1 CG  0.1080 119.9 180
CD2   CG  CB  CA  0.1383 120.8 chi2+180
HD2   CD2 CG  CB  0.1080 119.6 0
CE2   CD2 CG  CB  0.1388 120.8 180
HE2   CE2 CD2 CG  0.1080 119.9 180
CZ    CE1 CD1 CG  0.1369 120.1 0
HZ    CZ  CE1 CD1 0.1080 120.0 180
""",
    "SER": """
CB    CA  C   N   0.1525 110.3 122.5
HB2   CB  CA  N   0.1090 109.5 chi1+120
HB3   CB  CA  N   0.1090 109.5 chi1-120
OG    CB  CA  N   0.1418 111.2 chi1
HG    OG  CB  CA  0.0960 108.5 180
""",
    "THR": """
CB    CA  C   N   0.1529 111.6 123.5
HB    CB  CA  N   0.1090 108.5 chi1+119
OG1   CB  CA  N   0.1428 109.0 chi1
HG1   OG1 CB  CA  0.0960 108.5 180
CG2   CB  CA  N   0.1519 112.4 chi1-122
HG21  CG2 CB  CA  0.1090 109.5 60
HG22  CG2 CB  CA  0.1090 109.5 180
HG23  CG2 CB  CA  0.1090 109.5 -60
""",
    "TRP": """
CB    CA  C   N   0.1535 110.6 123.1
HB2   CB  CA  N   0.1090 109.0 chi1+120
HB3   CB  CA  N   0.1090 109.0 chi1-120
CG    CB  CA  N   0.1498 113.7 chi1
CD1   CG  CB  CA  0.1363 127.0 chi2
HD1   CD1 CG  CB  0.1080 125.0 0
NE1   CD1 CG  CB  0.1375 110.1 180
HE1   NE1 CD1 CG  0.1010 125.5 180
CD2   CG  CB  CA  0.1432 126.7 chi2+180
CE2   CD2 CG  CB  0.1409 107.3 180
CZ2   CE2 CD2 CG  0.1393 122.3 180
HZ2   CZ2 CE2 CD2 0.1080 121.3 180
CH2   CZ2 CE2 CD2 0.1369 117.4 0
HH2   CH2 CZ2 CE2 0.1080 119.2 180
CE3   CD2 CG  CB  0.1399 133.9 0
HE3   CE3 CD2 CG  0.1080 120.6 0
CZ3   CE3 CD2 CG  0.1380 118.8 180
HZ3   CZ3 CE3 CD2 0.1080 119.4 180
""",
    "TYR": """
CB    CA  C   N   0.1535 110.6 123.1
HB2   CB  CA  N   0.1090 109.0 chi1+120
HB3   CB  CA  N   0.1090 109.0 chi1-120
CG    CB  CA  N   0.1512 113.4 chi1
CD1   CG  CB  CA  0.1387 121.0 chi2
HD1   CD1 CG  CB  0.1080 119.4 0
CE1   CD1 CG  CB  0.1389 121.3 180
HE1   CE1 CD1 CG  0.1080 120.1 180
CD2   CG  CB  CA  0.1387 121.0 chi2+180
HD2   CD2 CG  CB  0.1080 119.4 0
CE2   CD2 CG  CB  0.1389 121.3 180
HE2   CE2 CD2 CG  0.1080 120.1 180
CZ    CE1 CD1 CG  0.1381 119.8 0
OH    CZ  CE1 CD1 0.1374 120.1 180
HH    OH  CZ  CE1 0.0960 109.5 180
""",
    "VAL": """
CB    CA  C   N   0.1543 111.4 124.9
HB    CB  CA  N   0.1090 107.5 chi1-118.2
CG1   CB  CA  N   0.1524 110.9 chi1
HG11  CG1 CB  CA  0.1090 109.5 60
HG12  CG1 CB  CA  0.1090 109.5 180
HG13  CG1 CB  CA  0.1090 109.5 -60
CG2   CB  CA  N   0.1524 110.9 chi1+123.5
HG21  CG2 CB  CA  0.1090 109.5 60
HG22  CG2 CB  CA  0.1090 109.5 180
HG23  CG2 CB  CA  0.1090 109.5 -60
""",
}

RING_BONDS = {
    "HIS": (("CE1", "NE2"),),
    "PHE": (("CE2", "CZ"),),
    "PRO": (("CD", "N"),),
    "TRP": (("NE1", "CE2"), ("CZ3", "CH2")),
    "TYR": (("CE2", "CZ"),),
}

DEFAULT_CHI: dict[str, tuple[float, ...]] = {
    "ARG": (-67, 180, 180, 180),
    "ASN": (-65, -20),
    "ASP": (-70, -15),
    "CYS": (-65,),
    "GLN": (-67, 180, -25),
    "GLU": (-67, 180, -10),
    "HIS": (-65, -70),
    "ILE": (-65, 170),
    "LEU": (-65, 175),
    "LYS": (-67, 180, 180, 180),
    "MET": (-65, -65, -70),
    "PHE": (-65, -85),
    "SER": (62,),
    "THR": (62,),
    "TRP": (-65, 95),
    "TYR": (-65, -85),
    "VAL": (175,),
}

# What takes the place of the hydrogen at N, or of the oxygen at C, in a chain that is not capped.
AMMONIUM = """
H     N   CA  C   0.1010 109.5 phi
H2    N   CA  C   0.1010 109.5 phi+120
H3    N   CA  C   0.1010 109.5 phi-120
"""

PROLINE_AMMONIUM = """
H2    N   CA  C   0.1010 109.5 -131
H3    N   CA  C   0.1010 109.5 -11
"""

CARBOXYLATE = """
O     C   CA  N   0.1249 117.5 psi+180
OXT   C   CA  N   0.1249 117.5 psi
"""

# The first three rows start a chain: they lack the atoms to refer to.
ACETYL = """
H1   -   -   -    0      0     0
CH3   H1 -   -    0.1090 0     0
C     CH3 H1 -    0.1525 109.5 0
H2    CH3 C   H1  0.1090 109.5 120
H3    CH3 C   H1  0.1090 109.5 -120
O     C   CH3 H1  0.1229 120.1 0
"""

METHYLAMINE = """
N    -C  -CA -N   0.1336 117.2 -psi
H     N  -C  -CA  0.1010 119.2 -omega+180
C     N  -C  -CA  0.1459 121.7 -omega
H1    C   N  -C   0.1090 109.5 60
H2    C   N  -C   0.1090 109.5 180
H3    C   N  -C   0.1090 109.5 -60
"""

AMINE = """
N    -C  -CA -N   0.1324 117.2 -psi
HN1   N  -C  -CA  0.1010 120.0 -omega
HN2   N  -C  -CA  0.1010 120.0 -omega+180
"""
