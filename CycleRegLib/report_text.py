"""What the report says in words: captions of the pictures, and definitions of the measures."""

from __future__ import annotations

# kind of picture -> (heading, caption); "{grid}" and "{checker}" are filled in with millimetres.
CAPTIONS: dict[str, tuple[str, str]] = {
    "panels": (
        "The images",
        "The fixed image, the moving image where it lay before the registration, and the moving image warped onto the "
        "fixed one. All are shown on the fixed image's grid.",
    ),
    "checkerboard": (
        "Checkerboard",
        "Squares{checker} taken in turn from the fixed image and from the moving image before, or warped after. Edges "
        "that run on from square to square are aligned; a change of grey alone is a change of contrast.",
    ),
    "difference": (
        "Difference",
        "Fixed minus moving image, before and after on one scale. The moving intensities were first mapped to the "
        "fixed ones by one increasing function. What stays after the registration may be misalignment, noise, or "
        "contrast that changed differently from organ to organ.",
    ),
    "outlines": (
        "Outlines of the segments",
        "Segments of both images over the fixed image: those of the moving image as they lay before, and warped with "
        "the field after.",
    ),
    "landmarks": (
        "Landmarks",
        "Over the moving image, circles show its landmarks, and crosses the landmarks of the fixed image: at their own "
        "coordinates before, mapped by the field after. The white line between a pair is the error that TRE measures, "
        "as seen in the slice. Landmarks more than {near} mm from the slice are faint.",
    ),
    "grid": (
        "Deformed grid",
        "A regular grid of lines{grid} drawn on the moving image and carried along as it is warped onto the fixed one. "
        "Colour is the length of the displacement in space.",
    ),
    "jacobian": (
        "Jacobian determinant",
        "How volume changes from the fixed to the moving image, over the fixed image, on a logarithmic scale: above 1 "
        "the tissue takes more room in the moving image, below 1 less. Uncoloured is no change.",
    ),
    "roundtrip": (
        "Round trip",
        "Distance between a point of the fixed image and where it ends up after going to the moving image with one "
        "field and back with the other. Uncoloured where the point leaves the moving image.",
    ),
}

# Every measure that the report may show -> (name, definition).  The order is that of the list at the end.
DEFINITIONS: dict[str, tuple[str, str]] = {
    "tre": (
        "Target registration error (TRE), mm",
        "distance in the moving image between a landmark and the corresponding landmark of the fixed image, mapped by "
        "the field (after) or by what was known at the start (before). SD is over landmarks (n − 1).",
    ),
    "dice": (
        "Dice",
        "twice the volume that the segment of the fixed image and the moving one, seen on its grid, have in common, "
        "divided by the sum of both; 0 to 1.",
    ),
    "iou": ("IoU (Jaccard)", "volume common to both segments divided by that of their union; 0 to 1."),
    "hd95": (
        "HD95, mm",
        "distance to the other segment's surface that 95 % of the points of a segment's surface do not exceed; the "
        "larger of both directions.",
    ),
    "bir": (
        "BIR",
        "1 − (voxels that differ) / (voxels of the fixed image's segment): 1 is perfect, negative is possible.",
    ),
    "tumor": (
        "Tumour size",
        "long diameter: the largest distance between two points of the tumour's boundary within one axial slice, over "
        "all slices; short diameter: the largest one perpendicular to it in that slice; both in mm. Volume in mL. "
        "Several parts: the largest.",
    ),
    "tumor_drawn": (
        "Tumour size",
        "lengths in mm of the lines that were drawn as the tumour's long and short diameter in either image. Warped: "
        "between the ends of the moving lines, carried onto the fixed image by the field.",
    ),
    "folding": (
        "Folding, %",
        "share of voxels where the Jacobian determinant is zero or negative: there the field turns space over.",
    ),
    "jacobian": (
        "Jacobian determinant",
        "determinant of the derivative of x + u(x) in physical space: the factor by which volume grows from the fixed "
        "to the moving image. SD over voxels; SD of log is that of the natural logarithm, over voxels where the "
        "determinant is positive.",
    ),
    "roundtrip": (
        "Round-trip error, mm",
        "distance between a point and where it ends up after going with one field and back with the other, over the "
        "voxels whose way stays inside the moving image.",
    ),
    "lncc": ("LNCC", "squared correlation coefficient in a small window about each voxel, averaged; 0 to 1."),
    "ncc": ("NCC", "correlation coefficient of the intensities; −1 to 1."),
    "mutual_information": ("Mutual information", "of the intensities, from their joint histogram; in nats, from 0 up."),
    "nmse": (
        "NMSE",
        "sum of squared differences divided by the reference's sum of squares, both counted from its least intensity "
        "(in 2D from zero).",
    ),
    "ssim": ("SSIM", "structural similarity, averaged; 1 for equal images."),
    "reversibility": (
        "There and back",
        "an image warped onto the other's grid with one field and back with the other, against itself.",
    ),
}
