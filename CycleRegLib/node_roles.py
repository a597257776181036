"""Names under which nodes of a scene refer to each other; saved with the scene.

In a module of their own, which needs nothing: the panel looks at them before PyTorch is there.
"""

from __future__ import annotations

#: From a transform to the transform in the other direction.
INVERSE_ROLE = "CycleReg.InverseTransform"
#: From a transform to the volumes that were made with it.
WARPED_ROLE, ROUNDTRIP_ROLE = "CycleReg.WarpedVolume", "CycleReg.RoundTripVolume"
#: From an evaluated transform to its tables, by the names of :class:`CycleRegLib.mrml.EvaluationNodes`.
TABLE_ROLES = {
    "summary": "CycleReg.EvaluationTable",
    "landmarks": "CycleReg.LandmarkTable",
    "segments": "CycleReg.SegmentTable",
    "tumor": "CycleReg.TumorTable",
}
#: From an evaluated transform to the lines of the tumour's diameters, by image and length.
DIAMETER_ROLES = {
    (side, length): f"CycleReg.Diameter.{side}.{length}"
    for side in ("fixed", "moving", "warped")
    for length in ("long", "short")
}
#: From an evaluated transform to the plot of the landmarks' errors.
CHART_ROLE = "CycleReg.LandmarkChart"
#: Singleton tag of the node that remembers what the comparing views replaced.
VIEWS_TAG = "CycleRegViews"
