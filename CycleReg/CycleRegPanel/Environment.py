"""The Python packages that a registration needs in Slicer: what is missing, and installing it after a question.

Nothing here runs at import or when the panel opens; the panel calls :func:`ensure` when the user presses Apply.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
import re
import subprocess
from typing import Any

import slicer

from .Host import _

_REQUIREMENTS = os.path.join(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "Resources", "requirements.txt"
)
_TORCH_REQUIREMENT = ">=2.2"
_PYTORCH_EXTENSION = "PyTorch"
_REQUESTER = "CycleReg"


def requirements() -> list[str]:
    """The lines of ``Resources/requirements.txt``, e.g. ``pynrrd>=1.0``."""
    with open(_REQUIREMENTS, encoding="utf-8") as file:
        lines = (line.split("#")[0].strip() for line in file)
        return [line for line in lines if line]


def missing_packages() -> list[str]:
    """The requirements whose package is not there or too old."""
    return [requirement for requirement in requirements() if not _is_satisfied(requirement)]


def has_torch() -> bool:
    """Whether PyTorch is installed; does not import it, which takes seconds."""
    return importlib.util.find_spec("torch") is not None


def ensure() -> str | None:
    """Install what is missing, after asking.  Returns None when all is there, else why not, for the user."""
    return _ensure_torch() or _ensure_packages()


def _is_satisfied(requirement: str) -> bool:
    name, minimum = re.fullmatch(r"([\w.-]+)>=([\d.]+)", requirement).groups()
    try:
        installed = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return _numbers(installed) >= _numbers(minimum)


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.match(r"\d+(\.\d+)*", version).group().split(".")]


def _ensure_packages() -> str | None:
    missing = missing_packages()
    if not missing:
        return None
    try:
        if not _install(missing):
            return _("The packages {names} are needed.").format(names=", ".join(missing))
    except subprocess.CalledProcessError:
        # What pip said is in the Python console; what is missing still is told below.
        logging.exception("CycleReg could not install %s", ", ".join(missing))
    importlib.invalidate_caches()
    missing = missing_packages()
    return _("The packages {names} could not be installed.").format(names=", ".join(missing)) if missing else None


def _install(missing: list[str]) -> bool:
    """Install after a question; False if the user declined.

    Raises
    ------
    subprocess.CalledProcessError
        If pip fails.
    """
    ensure = _slicers_installer()
    if ensure is not None:
        try:
            # Asks by itself, shows progress, and offers a restart where one is needed.
            ensure(missing, requester=_REQUESTER)
        except RuntimeError:
            return False
        return True
    question = _("CycleReg needs the Python packages {names}. Install them into Slicer's Python now?")
    if not slicer.util.confirmOkCancelDisplay(question.format(names=", ".join(missing))):
        return False
    for requirement in missing:
        slicer.util.pip_install(requirement)
    return True


def _slicers_installer() -> Any:
    """``slicer.packaging.pip_ensure``, which newer versions of Slicer have; None in others."""
    try:
        from slicer.packaging import pip_ensure
    except ImportError:
        return None
    return pip_ensure


def _ensure_torch() -> str | None:
    if has_torch():
        return None
    needed = _("PyTorch is needed. Install the PyTorch extension from the Extensions Manager and restart Slicer.")
    try:
        import PyTorchUtils
    except ImportError:
        return _offer_extension() or needed
    # Asks by itself, naming the build that fits this machine.
    logic = PyTorchUtils.PyTorchUtilsLogic()
    if logic.installTorch(askConfirmation=True, torchVersionRequirement=_TORCH_REQUIREMENT) is None:
        return _("PyTorch is needed; press Apply again to install it.")
    importlib.invalidate_caches()
    return None


def _offer_extension() -> str | None:
    """Offer to install the PyTorch extension; returns what to do next, None when it was declined or failed."""
    question = _(
        "CycleReg needs PyTorch, which Slicer's PyTorch extension provides. "
        "Install the extension now? Slicer has to be restarted afterwards."
    )
    if not slicer.util.confirmOkCancelDisplay(question):
        return None
    manager = slicer.app.extensionsManagerModel()
    # It has been asked; the user's own installations ask again after.
    asks, manager.interactive = manager.interactive, False
    try:
        # False: no restart now, there may be unsaved work.
        installed = manager.installExtensionFromServer(_PYTORCH_EXTENSION, False)
    finally:
        manager.interactive = asks
    if not installed:
        return None
    return _("The PyTorch extension is installed. Restart Slicer, then press Apply again.")
