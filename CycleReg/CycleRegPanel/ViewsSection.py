"""The part of the panel that shows a registration in the slice views; ``CycleRegLib.mrml.views`` does the work."""

from __future__ import annotations

import logging
from typing import Any

import qt
import slicer

from CycleRegLib.errors import CycleRegError
from CycleRegLib.node_roles import INVERSE_ROLE, ROUNDTRIP_ROLE, VIEWS_TAG

from . import Environment
from .Host import _
from .Section import Section


class ViewsSection(Section):
    """Arranges the views to compare, and brings the user's own back."""

    UI = "CycleRegViews.ui"
    PLACE = "viewsCollapsibleButton"

    def setup(self) -> None:
        ui = self.ui
        for key, title, explanation in (
            ("checkerboard", _("Checkerboard"), _("Squares of the fixed and the warped image in turn.")),
            ("blend", _("Blend"), _("The warped over the fixed image, as opaque as you like.")),
            ("difference", _("Difference"), _("Warped minus fixed image; for images of one kind.")),
            ("roundtrip", _("Round-trip error (mm)"), _("How far a point comes from itself, there and back.")),
        ):
            ui.viewsComparisonComboBox.addItem(title, key)
            ui.viewsComparisonComboBox.setItemData(ui.viewsComparisonComboBox.count - 1, explanation, qt.Qt.ToolTipRole)
        for key, title in (("Axial", _("Axial")), ("Coronal", _("Coronal")), ("Sagittal", _("Sagittal"))):
            ui.viewsOrientationComboBox.addItem(title, key)
        ui.viewsComparisonComboBox.connect("currentIndexChanged(int)", self._onComparison)
        ui.viewsOrientationComboBox.connect("currentIndexChanged(int)", self._onOrientation)
        ui.viewsOpacitySlider.connect("valueChanged(int)", self._onOpacity)
        ui.viewsGridCheckBox.connect("toggled(bool)", self._onGrid)
        ui.viewsCompareButton.connect("clicked(bool)", self.onCompareButton)
        ui.viewsRestoreButton.connect("clicked(bool)", self.onRestoreButton)

    def updateState(self, running: bool) -> None:
        ui = self.ui
        problem = self.problem()
        ui.viewsCompareButton.enabled = problem is None
        ui.viewsCompareButton.toolTip = problem or _(
            "Show fixed, moving and warped image side by side, and the comparison."
        )
        overlaid = ui.viewsComparisonComboBox.currentData in ("blend", "roundtrip")
        ui.viewsOpacitySlider.enabled = ui.viewsOpacitySliderLabel.enabled = overlaid
        arranged = self.arranged
        ui.viewsRestoreButton.enabled = arranged
        ui.viewsRestoreButton.toolTip = (
            _("The layout, slices, links and display of before; what was made for the views is removed.")
            if arranged
            else _("These are your own views.")
        )

    def onResult(self, result: Any) -> None:
        if result.transform is not None:
            self.ui.viewsTransformSelector.setCurrentNode(result.transform)

    def onSceneStartClose(self) -> None:
        # The window outlives the scene: give it its layout back while the scene still remembers it.
        if self.arranged:
            self._restore()

    # ------------------------------------------------------------------ what can be shown

    @property
    def arranged(self) -> bool:
        """Whether the views show a registration now."""
        node = slicer.mrmlScene.GetSingletonNode(VIEWS_TAG, "vtkMRMLScriptedModuleNode")
        # Closing a scene empties the node and keeps it.
        return node is not None and bool(node.GetParameter("remembered"))

    def problem(self) -> str | None:
        """What keeps the comparison from being shown, for the user; None when it can be shown."""
        transform = self.ui.viewsTransformSelector.currentNode()
        if transform is None:
            return _("Select the transform of a registration.")
        for role, side, node in self._volumes(transform):
            if role is None and node is None:
                return _('"{name}" does not know its {side} volume; select it under Inputs.').format(
                    name=transform.GetName(), side=side
                )
        if self.ui.viewsComparisonComboBox.currentData == "roundtrip" and not any(
            transform.GetNodeReference(role) for role in (INVERSE_ROLE, ROUNDTRIP_ROLE)
        ):
            return _("The round-trip error needs the inverse transform; register with one among the outputs.")
        return None

    def _volumes(self, transform: Any) -> list[tuple[Any, str, Any]]:
        """Fixed and moving: the volume that the transform knows, the side, and the volume of the parameter set."""
        base, node = slicer.vtkMRMLTransformNode, self.parameterNode
        return [
            (transform.GetNodeReference(base.GetFixedNodeReferenceRole()), _("fixed"), node and node.fixedNode),
            (transform.GetNodeReference(base.GetMovingNodeReferenceRole()), _("moving"), node and node.movingNode),
        ]

    def _registered(self) -> Any:
        from CycleRegLib.mrml.views import Registered

        transform = self.ui.viewsTransformSelector.currentNode()
        (_known, _side, fixed), (_known, _side, moving) = self._volumes(transform)
        return Registered.of(transform, fixed, moving)

    # ------------------------------------------------------------------ showing

    def onCompareButton(self, checked: bool = False) -> None:
        self.compare()

    def compare(self) -> None:
        """Show the registration as the panel says; errors are one message, and the views stay as they were."""
        problem = self.problem() or Environment.ensure()
        if problem:
            self.panel.fail(problem)
            return
        ui, first = self.ui, not self.arranged
        with slicer.util.WaitCursor():
            try:
                from CycleRegLib.mrml import views

                views.arrange(
                    self._registered(),
                    ui.viewsComparisonComboBox.currentData,
                    ui.viewsOrientationComboBox.currentData,
                    ui.viewsOpacitySlider.value / 100.0,
                    ui.viewsGridCheckBox.checked,
                )
                if first:
                    self._fit()
            except CycleRegError as error:
                self.panel.fail(str(error))
            except Exception as error:
                logging.exception("CycleReg could not show the registration")
                self.panel.fail(str(error))
        self.panel.updateState()

    def onRestoreButton(self, checked: bool = False) -> None:
        self._restore()
        self.panel.updateState()

    def _restore(self) -> None:
        from CycleRegLib.mrml import views

        views.restore(slicer.mrmlScene)

    def _fit(self) -> None:
        """Fit the fixed image into its view, whose size only the window knows, and the others alike."""
        from CycleRegLib.mrml import views

        widget = slicer.app.layoutManager().sliceWidget(views.FIXED)
        if widget is not None:
            widget.sliceLogic().FitSliceToBackground()
            views.align_views(slicer.mrmlScene)

    # ------------------------------------------------------------------ choices; the views follow while they are shown

    def _onComparison(self, index: int = 0) -> None:
        if self._live():
            if self.problem() is None:
                self.compare()
            self.panel.updateState()

    def _onOrientation(self, index: int = 0) -> None:
        if self._live():
            from CycleRegLib.mrml import views

            views.set_orientation(self._registered().fixed, self.ui.viewsOrientationComboBox.currentData)
            self._fit()

    def _onOpacity(self, percent: int = 0) -> None:
        if self._live() and self.ui.viewsOpacitySlider.enabled:
            from CycleRegLib.mrml import views

            views.set_opacity(slicer.mrmlScene, self.ui.viewsOpacitySlider.value / 100.0)

    def _onGrid(self, checked: bool = False) -> None:
        if self._live():
            from CycleRegLib.mrml import views

            views.show_grid(self._registered(), self.ui.viewsGridCheckBox.checked)

    def _live(self) -> bool:
        """Whether a change of the user's is to be seen at once, because the views show this registration now."""
        state = slicer.mrmlScene.GetSingletonNode(VIEWS_TAG, "vtkMRMLScriptedModuleNode")
        shown = None if state is None else state.GetNodeReference("transform")
        return shown is not None and shown is self.ui.viewsTransformSelector.currentNode()
