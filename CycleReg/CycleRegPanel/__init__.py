"""The CycleReg module's own code: everything between Slicer's window and ``CycleRegLib``.

``Library`` finds the library, ``Host`` names what the module inherits from, ``Logic`` is the module's interface for
scripts, ``Parameters`` what a run needs, ``Exchange`` moves data between nodes and files, ``Worker`` runs the library
in a child process (``Child``), ``Environment`` installs what is missing, ``Results`` fills the table, ``Widget`` is the
panel.
"""

from .Library import make_importable

# Once for the whole package: every module of it may import CycleRegLib.
make_importable()
