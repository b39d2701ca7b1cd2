"""Where Emend's three packages lie, without importing one, and whether they are Emend's at all.

The names `inference`, `data_gen` and `training` are taken by others too. Where a package of another
distribution is found in their place, the error says so instead of a missing module deep inside.
"""

import base64
import hashlib
import importlib.util
from importlib import metadata
from pathlib import Path
from typing import Final

PACKAGES: Final = ("inference", "data_gen", "training")
_ROOT: Final = Path(__file__).resolve().parents[1]


class ForeignPackage(ImportError):
    """Importing one of the three packages would import somebody else's."""


def folder_of(package: str) -> Path:
    """The folder of one of the three packages, beside this one."""
    return _ROOT / package


def require_own() -> None:
    """Require that importing the three packages imports Emend's.

    Raises:
        ForeignPackage: Python finds another package of that name first, or another distribution
            wrote over Emend's files.
    """
    for package in PACKAGES:
        expected = folder_of(package) / "__init__.py"
        spec = importlib.util.find_spec(package)
        found = None if spec is None or spec.origin is None else Path(spec.origin).resolve()
        if found != expected:
            where = "nowhere" if found is None else f"at {found}"
            raise ForeignPackage(
                f"the package {package} of Emend is expected at {expected} and found {where}"
                f"{_owners(package)}: remove the other, or give Emend an environment of its own"
            )
        if _was_replaced(expected):
            raise ForeignPackage(
                f"{expected} is not the file that Emend installed{_owners(package)}: remove the "
                "other distribution and install Emend again, or give it an environment of its own"
            )


def version() -> str:
    """The version that is installed; a checkout that is not installed has none."""
    try:
        return metadata.version("emend")
    except metadata.PackageNotFoundError:
        return "of a checkout that is not installed"


def _owners(package: str) -> str:
    """Which other distributions bring a package of that name, in half a sentence."""
    owners = {*metadata.packages_distributions().get(package, ())} - {"emend"}
    return f", where {' and '.join(sorted(owners))} brings one too" if owners else ""


def _was_replaced(path: Path) -> bool:
    """Whether a file that pip installed has other bytes now; False where it keeps no hash."""
    try:
        files = metadata.files("emend") or ()
    except metadata.PackageNotFoundError:
        return False
    name = path.relative_to(_ROOT).as_posix()
    for file in files:
        if file.as_posix() == name and file.hash and file.hash.mode == "sha256":
            if Path(str(file.locate())).resolve() != path:  # installed, but this is a checkout
                return False
            digest = hashlib.sha256(path.read_bytes()).digest()
            return base64.urlsafe_b64encode(digest).decode().rstrip("=") != file.hash.value
    return False
