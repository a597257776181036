"""The CycleReg module's own code: everything between Slicer's window and ``CycleRegLib``.

``Library`` finds the library, ``Host`` names what the module inherits from, ``Logic`` is the module's interface for
scripts, ``Parameters`` what a run needs, ``Exchange`` moves data between nodes and files, ``Worker`` runs the library
in a child process (``Child``), ``Environment`` installs what is missing, ``Widget`` is the panel.
"""
