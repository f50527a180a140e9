"""Copy a model to the folder of models of its kind that come with the package.

Of the commands in its record, only the last part of each path is kept, and of the tables of observables of rounds
that of the best one. PROVENANCE.md in the folder stays as it is.

Example: python scripts/make_shipped_model.py annealed --name alanine_dipeptide
"""

import argparse
import sys
from pathlib import Path
from typing import Any


def without_places(record: Any) -> Any:
    """Return a record whose commands name files and folders without where they were."""
    from openmm_bg.files import without_folders

    if isinstance(record, dict):
        return {
            key: without_folders(value) if key == "command" else without_places(value)
            for key, value in record.items()
        }
    return [without_places(one) for one in record] if isinstance(record, list) else record


def with_one_table(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record without the tables of rounds but that of the kept one, which would be most of the file."""
    if "rounds" not in record:
        return record
    rounds = [
        {key: value for key, value in one.items() if key != "table" or k == record["kept_round"]}
        for k, one in enumerate(record["rounds"])
    ]
    return record | {"rounds": rounds}


def main() -> int:
    """Load the model and save it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="directory of the model")
    parser.add_argument("--name", required=True, help="of the model")
    parser.add_argument(
        "--systems", type=Path, default=Path("systems"), help="the folder that has one of models of each kind"
    )
    arguments = parser.parse_args()

    from openmm_bg import BoltzmannGenerator, CoarseGrainedGenerator
    from openmm_bg.errors import InputError
    from openmm_bg.model_files import energy_evaluations, read_any_header
    from openmm_bg.models import COARSE_GRAINED, FOLDERS, GENERATOR

    classes = {GENERATOR: BoltzmannGenerator, COARSE_GRAINED: CoarseGrainedGenerator}
    try:
        kind = read_any_header(arguments.model).get("kind", GENERATOR)
        generator = classes[kind].load(arguments.model)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    generator.record = with_one_table(without_places(generator.record))
    output = arguments.systems / FOLDERS[kind] / arguments.name
    notes = output / "PROVENANCE.md"  # written by hand, and to be brought up to date
    text = notes.read_text() if notes.exists() else None
    print(generator.save(output), energy_evaluations(generator.record))
    if text is not None:
        notes.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
