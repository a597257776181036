"""The bridge to 3D Slicer's MRML: nodes to images, results to nodes, scenes on disk.

The only part of the library that imports ``slicer`` and ``vtk``.  It runs in Slicer and on the ``slicer-core``
package alike, and needs neither the application nor Qt.
"""

from __future__ import annotations

from .diameters import TumorLines
from .job import Job, ProcessResult, prepare, process, summary_columns
from .landmark_pairs import LandmarkPairs, jump_to_pair, pair_landmarks
from .measure import EvaluationJob, EvaluationNodes, evaluate, prepare_evaluation, write_evaluation
from .nodes import (
    field_from_node,
    grid_from_volume_node,
    image_from_volume_node,
    landmarks_from_markups,
    transform_from_node,
)
from .pair_scene import load_inputs, write_pair_scene
from .results import Column, show_under, write_table, write_transform, write_volume
from .sample import SampleNodes, load_sample, make_sample_nodes
from .scene import (
    ensure_scene,
    load_landmarks,
    load_segmentation,
    load_transform,
    load_volume,
    markups_node,
    read_scene,
    save_scene,
    segmentation_node,
    use_linear_interpolation,
    volume_node,
)
from .segments import fill_segmentation, mask_from_node, segmentation_from_node
from .table_text import table_rows, table_text, write_table_csv

__all__ = [
    "Column",
    "EvaluationJob",
    "EvaluationNodes",
    "Job",
    "LandmarkPairs",
    "ProcessResult",
    "SampleNodes",
    "TumorLines",
    "ensure_scene",
    "evaluate",
    "field_from_node",
    "fill_segmentation",
    "grid_from_volume_node",
    "image_from_volume_node",
    "jump_to_pair",
    "landmarks_from_markups",
    "load_inputs",
    "load_landmarks",
    "load_sample",
    "load_segmentation",
    "load_transform",
    "load_volume",
    "make_sample_nodes",
    "markups_node",
    "mask_from_node",
    "pair_landmarks",
    "prepare",
    "prepare_evaluation",
    "process",
    "read_scene",
    "save_scene",
    "segmentation_from_node",
    "segmentation_node",
    "show_under",
    "summary_columns",
    "table_rows",
    "table_text",
    "transform_from_node",
    "use_linear_interpolation",
    "volume_node",
    "write_evaluation",
    "write_pair_scene",
    "write_table",
    "write_table_csv",
    "write_transform",
    "write_volume",
]
