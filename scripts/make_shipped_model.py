"""Copy an annealed model to the folder of models that come with the package.

Of the commands in its record, only the last part of each path is kept. PROVENANCE.md in the folder stays as it is.

Example: python scripts/make_shipped_model.py annealed --name alanine_dipeptide
"""

import argparse
import sys
from pathlib import Path
from typing import Any


def without_folders(record: Any) -> Any:
    """Return a record whose commands name files and folders without where they were."""
    if isinstance(record, dict):
        return {
            key: " ".join(Path(word).name for word in value.split())
            if key == "command"
            else without_folders(value)
            for key, value in record.items()
        }
    return [without_folders(one) for one in record] if isinstance(record, list) else record


def main() -> int:
    """Load the model and save it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="directory of the model")
    parser.add_argument("--name", required=True, help="of the system, and of the model")
    parser.add_argument("--output", type=Path, default=Path("systems/models"), help="folder of the models")
    arguments = parser.parse_args()

    from openmm_bg import BoltzmannGenerator
    from openmm_bg.errors import InputError

    try:
        generator = BoltzmannGenerator.load(arguments.model)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    generator.record = without_folders(generator.record)
    notes = (
        arguments.output / arguments.name / "PROVENANCE.md"
    )  # written by hand, and to be brought up to date
    text = notes.read_text() if notes.exists() else None
    print(generator.save(arguments.output / arguments.name), generator.energy_evaluations)
    if text is not None:
        notes.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
