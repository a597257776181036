"""CycleReg's inference library: deformable registration of medical images, in both directions.

Layers, lowest first: ``errors``, ``geometry``, ``images``; ``warp`` and ``fields``; ``similarity``, ``affine``,
``optimize``, ``networks``; ``methods``, ``registration``; ``measures``, ``evaluation``; ``pictures``, ``report``;
``cli``.  Only ``mrml`` imports slicer and vtk.
"""

__version__ = "0.1.0"
