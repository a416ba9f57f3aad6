"""Where the data that travels with the package lies: templates, targets and firmware."""

from pathlib import Path


def folder(name: str) -> Path:
    """The folder `name` ("templates", "targets", "firmware"): inside the wheel, or at the top of a checkout."""
    package = Path(__file__).resolve().parent
    in_wheel = package / "_data" / name
    return in_wheel if in_wheel.is_dir() else package.parent / name
