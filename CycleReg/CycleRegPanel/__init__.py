"""The CycleReg module's own code: everything between Slicer's window and ``CycleRegLib``.

``Library`` finds the library, ``Host`` names what the module inherits from, ``Logic`` is the module's interface for
scripts, ``ParameterNode`` what is saved with the scene, ``Parameters`` what a run needs, ``Exchange``,
``PhasesExchange`` and ``MeasureExchange`` move data between nodes and the files of a temporary ``Folder``, ``Worker``
runs the library in a child process (``Child``), ``Environment`` installs what is missing, ``Results`` fills the table,
``Widget`` is the panel.

The panel and its sections
--------------------------
``Widget`` composes the panel of sections, each a subclass of :class:`CycleRegPanel.Section.Section` in a file of its
own (``ViewsSection.py``) with a ``.ui`` file of its own (``Resources/UI/CycleRegViews.ui``).  To add one: name it in
``Sections.SECTIONS``; its collapsible button is in ``CycleReg.ui`` and is shown once a section fills it.

A section is given the panel and may use of it:

``panel.ui``
    every widget by its object name, which is unique over all ``.ui`` files;
``panel.logic``
    :class:`CycleRegPanel.Logic.CycleRegLogic`;
``panel.parameterNode``
    the parameter set that is shown (:mod:`CycleRegPanel.ParameterNode`): ``fixedNode``, ``movingNode``,
    ``outputTransform``, ``outputVolume`` and so on, None where nothing is chosen.  After a registration the outputs
    are the nodes that were made.  A section that keeps choices adds fields to the class, prefixed with its name, with
    a default, and never keeps them elsewhere;
``panel.running``
    whether a child process is at work; the sections' own work waits until it is not;
``panel.say(text)``, ``panel.fail(message)``
    one line in the panel; the same with a pop-up, for errors.

The panel calls, in this order: ``setup`` once; ``onParameterNodeModified`` at every change of the parameter set, also
when another set is chosen or a scene was loaded; ``updateState(running)`` after it; ``onResult(result)`` when a
registration ended well; ``onSceneStartClose`` and ``onSceneEndClose``; ``cleanup`` once.

In a ``.ui`` file the top widget is a ``qMRMLWidget`` whose ``mrmlSceneChanged(vtkMRMLScene*)`` is connected to every
node selector in it; every widget has a tool tip; texts are translatable.
"""

from .Library import make_importable

# Once for the whole package: every module of it may import CycleRegLib.
make_importable()
