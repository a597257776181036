"""The bridge to 3D Slicer's MRML: nodes to images, results to nodes, scenes on disk.

The only part of the library that imports ``slicer`` and ``vtk``.  It runs in Slicer and on the ``slicer-core``
package alike, and needs neither the application nor Qt.
"""

from __future__ import annotations

from .job import Job, ProcessResult, prepare, process, summary_columns
from .measure import EvaluationNodes, evaluate, write_evaluation
from .nodes import (
    field_from_node,
    grid_from_volume_node,
    image_from_volume_node,
    landmarks_from_markups,
    transform_from_node,
)
from .pair_scene import load_inputs, write_pair_scene
from .results import Column, show_under, write_table, write_transform, write_volume
from .scene import (
    ensure_scene,
    load_landmarks,
    load_segmentation,
    load_transform,
    load_volume,
    markups_node,
    read_scene,
    save_scene,
    use_linear_interpolation,
    volume_node,
)
from .segments import fill_segmentation, mask_from_node, segmentation_from_node

__all__ = [
    "Column",
    "EvaluationNodes",
    "Job",
    "ProcessResult",
    "ensure_scene",
    "evaluate",
    "field_from_node",
    "fill_segmentation",
    "grid_from_volume_node",
    "image_from_volume_node",
    "landmarks_from_markups",
    "load_inputs",
    "load_landmarks",
    "load_segmentation",
    "load_transform",
    "load_volume",
    "markups_node",
    "mask_from_node",
    "prepare",
    "process",
    "read_scene",
    "save_scene",
    "segmentation_from_node",
    "show_under",
    "summary_columns",
    "transform_from_node",
    "use_linear_interpolation",
    "volume_node",
    "write_evaluation",
    "write_pair_scene",
    "write_table",
    "write_transform",
    "write_volume",
]
