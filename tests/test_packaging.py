"""What is installed is what is here: packages, data, versions, pins."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import openmm_bg

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
]


def package_folders():
    """Find every folder that holds Python files, under the name that it is imported by."""
    found = set()
    for top, name in ((ROOT / "openmm_bg", "openmm_bg"), (ROOT / "systems", "openmm_bg.systems")):
        for file in top.rglob("*.py"):
            found.add(".".join([name, *file.parent.relative_to(top).parts]))
    return found


def normalised(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_no_package_is_missing():
    packages = PROJECT["tool"]["setuptools"]["packages"]
    assert set(packages) == package_folders()
    assert packages == sorted(packages)


@pytest.mark.parametrize("package", sorted(package_folders()))
def test_packages_are_packages(package):
    folder = ROOT / package.replace("openmm_bg.systems", "systems").replace(".", "/")
    assert (folder / "__init__.py").is_file()


def test_every_data_file_is_installed():
    listed = PROJECT["tool"]["setuptools"]["package-data"]
    installed = set()
    for package, patterns in listed.items():
        folder = ROOT / package.replace("openmm_bg.systems", "systems").replace(".", "/")
        for pattern in patterns:
            assert list(folder.glob(pattern)), f"{pattern!r} matches nothing in {package}"
            installed.update(folder.glob(pattern))
    found = {
        file
        for folder in ("openmm_bg", "systems")
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts and file.suffix not in (".py", ".pyc")
    }
    assert found == installed
    assert ROOT / "openmm_bg" / "py.typed" in installed


def test_versions_agree():
    assert PROJECT["project"]["version"] == openmm_bg.__version__
    assert metadata.version("openmm-bg") == openmm_bg.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text()
    first = re.search(r"^## (\S+)", changelog, re.MULTILINE)
    assert first is not None
    assert first.group(1) == openmm_bg.__version__


def test_console_script():
    (script,) = metadata.entry_points(group="console_scripts", name="openmm-bg")
    assert callable(script.load())


def test_every_requirement_is_pinned_within_its_range():
    pins = {normalised(pin.name): pin for pin in PINS}
    extras = PROJECT["project"]["optional-dependencies"]
    texts = [
        *PROJECT["project"]["dependencies"],
        *PROJECT["build-system"]["requires"],
        *(text for extra in extras.values() for text in extra),
    ]
    for requirement in map(Requirement, texts):
        if requirement.name == PROJECT["project"]["name"]:
            continue
        (exact,) = pins[normalised(requirement.name)].specifier
        assert requirement.specifier.contains(exact.version), f"{requirement} excludes {exact}"


def test_dependencies_of_dependencies_are_pinned():
    """Otherwise a new release of any of them could break the demo tomorrow."""
    pinned, seen, todo = (
        {normalised(pin.name) for pin in PINS},
        set(),
        [("openmm-bg", frozenset({"", "test"}))],
    )
    while todo:
        name, extras = todo.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        for text in metadata.requires(name) or []:
            requirement = Requirement(text)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
                if re.match(r"(nvidia|cuda)-|triton$", normalised(requirement.name)):
                    continue  # torch's own choice for GPUs; it pins them exactly
                assert normalised(requirement.name) in pinned, f"{requirement} of {name} is not pinned"
                todo.append((requirement.name, frozenset({"", *requirement.extras})))


def test_pins_are_plain_versions():
    for pin in PINS:
        assert pin.url is None
        (exact,) = pin.specifier
        assert exact.operator == "=="
        assert "+" not in exact.version, f"{pin}: a local version exists on one machine only"
    names = [normalised(pin.name) for pin in PINS]
    assert len(names) == len(set(names))
