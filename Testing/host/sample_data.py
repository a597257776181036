"""A stand-in for Slicer's module ``SampleData``, by which modules offer data sets to try themselves on.

As Slicer documents it (Developer Guide, Script repository, "Sample data"): sources lie in
``slicer.modules.sampleDataSources``, a dictionary by category, and each becomes a button.  Slicer's own data sets,
which have to be downloaded, are not here.
"""

from __future__ import annotations

import os
import types
from typing import Any, Callable

import slicer

_BY_SUFFIX = {".mrml": "SceneFile", ".mrb": "SceneFile", ".zip": "ZipFile"}


class SampleDataSource:
    """One data set: a file, or several files in lists of equal length.

    A single address stands for a list of one.  Of several, what is the same for all may be left out, and one
    ``loadFileType`` stands for all.
    """

    def __init__(
        self,
        sampleName: str | None = None,
        sampleDescription: str | None = None,
        uris: Any = None,
        fileNames: Any = None,
        nodeNames: Any = None,
        checksums: Any = None,
        loadFiles: Any = None,
        customDownloader: Callable[[Any], Any] | None = None,
        thumbnailFileName: str | None = None,
        loadFileType: Any = None,
        loadFileProperties: dict[str, Any] | None = None,
    ) -> None:
        self.sampleName = sampleName
        self.sampleDescription = sampleName if sampleDescription is None else sampleDescription
        self.customDownloader = customDownloader
        self.thumbnailFileName = thumbnailFileName
        self.loadFileProperties = loadFileProperties or {}
        single = isinstance(uris, str)

        def each(value: Any) -> Any:
            return [value] if single else [None] * len(uris) if value is None else value

        # Also with a downloader of one's own; len(None) is a TypeError, as in Slicer.
        self.uris = [uris] if single else uris
        self.fileNames = [fileNames] if single else fileNames
        self.nodeNames, self.loadFiles, self.checksums = each(nodeNames), each(loadFiles), each(checksums)
        if not single and isinstance(loadFileType, str):
            loadFileType = [loadFileType] * len(uris)
        self.loadFileType = [_file_type(*one) for one in zip(self.fileNames, self.nodeNames, each(loadFileType))]
        lengths = {name: len(getattr(self, name)) for name in _FILES}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"All fields of a sample data source must have the same length, not {lengths}")

    def __eq__(self, other: Any) -> bool:
        # By what they say, down to the downloader itself.
        return isinstance(other, SampleDataSource) and vars(self) == vars(other)

    __hash__ = None


_FILES = ("uris", "fileNames", "nodeNames", "loadFiles", "loadFileType", "checksums")


def _file_type(file_name: str, node_name: str | None, given: str | None) -> str | None:
    if given is not None:
        return given
    return "VolumeFile" if node_name is not None else _BY_SUFFIX.get(os.path.splitext(file_name.lower())[1])


class SampleDataLogic:
    """Keeps the sources of all categories."""

    @staticmethod
    def registerCustomSampleDataSource(
        category: str = "Custom",
        sampleName: str | None = None,
        uris: Any = None,
        fileNames: Any = None,
        nodeNames: Any = None,
        customDownloader: Callable[[Any], Any] | None = None,
        thumbnailFileName: str | None = None,
        loadFileType: Any = "VolumeFile",
        loadFiles: Any = None,
        loadFileProperties: dict[str, Any] | None = None,
        checksums: Any = None,
    ) -> None:
        """Add a data set to a category; the same one only once."""
        source = SampleDataSource(
            sampleName=sampleName,
            uris=uris,
            fileNames=fileNames,
            nodeNames=nodeNames,
            checksums=checksums,
            loadFiles=loadFiles,
            customDownloader=customDownloader,
            thumbnailFileName=thumbnailFileName,
            loadFileType=loadFileType,
            loadFileProperties=loadFileProperties,
        )
        if not SampleDataLogic.isSampleDataSourceRegistered(category, source):
            SampleDataLogic.sampleDataSourcesByCategory().setdefault(category, []).append(source)

    @staticmethod
    def sampleDataSourcesByCategory(category: str | None = None) -> Any:
        """The sources of one category, or all by category."""
        if not hasattr(slicer.modules, "sampleDataSources"):
            slicer.modules.sampleDataSources = {}
        sources = slicer.modules.sampleDataSources
        return sources if category is None else sources.get(category, [])

    @staticmethod
    def isSampleDataSourceRegistered(category: str, sampleDataSource: Any) -> bool:
        if not isinstance(sampleDataSource, SampleDataSource):
            raise TypeError(f"SampleDataSource expected, not {type(sampleDataSource)}")
        return sampleDataSource in SampleDataLogic.sampleDataSourcesByCategory(category)


def click(category: str, name: str) -> Any:
    """Press the button of a data set in the module's panel; returns what its downloader returns."""
    import SampleData

    sources = SampleData.SampleDataLogic.sampleDataSourcesByCategory(category)
    (source,) = [one for one in sources if one.sampleDescription == name]
    if source.customDownloader is None:
        raise NotImplementedError(f"The host has no network to download {source.uris} from")
    return source.customDownloader(source)


def module() -> types.ModuleType:
    """The module ``SampleData``."""
    made = types.ModuleType("SampleData")
    made.SampleDataSource, made.SampleDataLogic = SampleDataSource, SampleDataLogic
    return made
