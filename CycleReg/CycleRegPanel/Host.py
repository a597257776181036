"""What the module's classes inherit from: Slicer's base classes, or plain ones where there is no application.

In slicer-core, Slicer's MRML libraries as a Python package, and in PythonSlicer there is no Qt and therefore no
``slicer.ScriptedLoadableModule``.  The module's logic and its self-test work there all the same; the panel does not
exist (``IN_APPLICATION`` is False).
"""

from __future__ import annotations

try:
    from slicer.i18n import tr as _
    from slicer.i18n import translate
except ImportError:

    def _(text: str) -> str:
        return text

    def translate(context: str, text: str) -> str:
        return text


try:
    from slicer.ScriptedLoadableModule import (
        ScriptedLoadableModule,
        ScriptedLoadableModuleLogic,
        ScriptedLoadableModuleTest,
    )

    IN_APPLICATION = True
except ImportError:
    import logging
    import unittest

    class ScriptedLoadableModule:
        """Registration of a module; without an application there is nothing to register with."""

    class ScriptedLoadableModuleLogic:
        """Base of a module's logic."""

    class ScriptedLoadableModuleTest(unittest.TestCase):
        """Base of a module's self-test; messages go to the log instead of a pop-up."""

        def delayDisplay(self, message: str, msec: int = 0) -> None:  # Slicer's name and signature
            logging.info(message)

    IN_APPLICATION = False

__all__ = [
    "IN_APPLICATION",
    "ScriptedLoadableModule",
    "ScriptedLoadableModuleLogic",
    "ScriptedLoadableModuleTest",
    "_",
    "translate",
]
