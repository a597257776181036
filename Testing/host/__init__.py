"""A stand-in for the Slicer application, in which the real panel is set up, clicked and photographed.

Real are: the module and its ``.ui`` file, MRML (slicer-core), ``slicer.util`` (slicer-core ships Slicer's own), Qt
(PySide6, without a display).  Stand-ins, each as small as the panel needs and behaving as Slicer's documentation says:

``pythonqt``  the modules ``qt`` and ``ctk``: PySide6 with PythonQt's manners
``widgets``   ``qMRMLWidget``, ``qMRMLNodeComboBox``, ``ctkCollapsibleButton``, ``ctkPathLineEdit``, and the UI loader
``app``       ``slicer.app``, ``slicer.modules``, start and end of the whole
``layout``    the layout manager
``logics``    the application's logic, and the logic of Slicer's own modules
``rendering``        the slice views, drawn by Slicer's own displayable managers
``photographs``      pictures of the panel and of the views
``scripted_module``  ``slicer.ScriptedLoadableModule``
``parameter_node``   ``slicer.parameterNodeWrapper``
``sample_data``      the module ``SampleData``
``own_files``        in place of the last three, Slicer's own Python files

Who has a Slicer, or its sources, can have the panel run on its Python files instead of on the stand-ins for them, with
every test of the panel and of the host:

    CYCLEREG_SLICER_PYTHON=Slicer/Base/Python:Slicer/Modules/Scripted/SampleData make test

>>> import host                                              # doctest: +SKIP
>>> host.start()
>>> widget = host.open_module("CycleReg", "CycleReg/CycleReg.py")
>>> host.photograph(widget.parent, "panel.png")
>>> host.stop()
"""

from __future__ import annotations

import os

# Before Qt is imported: the tests have no display.
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from .app import appearance, open_module, process_events_until, start, stop
from .photographs import photograph, photograph_views, photograph_window
from .sample_data import click as click_sample_data

__all__ = [
    "appearance",
    "click_sample_data",
    "open_module",
    "photograph",
    "photograph_views",
    "photograph_window",
    "process_events_until",
    "start",
    "stop",
]
