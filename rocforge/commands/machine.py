"""What a figure is worth little without: the device, versions, the commit and the date. Measures nothing."""

import datetime
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("rocforge", "numba", "torch", "triton")


def describe(device) -> dict[str, Any]:
    """The machine and the software of a measurement on `device`; null for a package that is absent."""
    found = {
        "device": str(device), "host": platform.processor() or platform.machine(), "system": platform.platform(),
        "isa": " ".join(device.isa), "python": platform.python_version(),
    }  # fmt: skip
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    found["commit"] = _commit()
    found["date"] = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return found


def _commit() -> str | None:
    """The commit of the checkout that this package runs from, marked where files differ from it; None outside of one."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    try:
        ran = subprocess.run(git, check=False, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ran.stdout.strip() or None
