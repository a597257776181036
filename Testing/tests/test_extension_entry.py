"""The entry for the Extensions Index: valid, and in step with CMake and the files that it promises."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENTRY = ROOT / "Docs" / "ExtensionsIndex" / "CycleReg.json"
SCHEMA = "https://raw.githubusercontent.com/Slicer/Slicer/main/Schemas/slicer-extension-catalog-entry-schema-v1.0.2.json#"
# What schema 1.0.2 allows, and of which type; the first three are required.
FIELDS = {
    "$schema": str,
    "category": str,
    "scm_url": str,
    "scm_revision": str,
    "scm_type": str,
    "build_dependencies": list,
    "build_subdirectory": str,
    "dicom_support_rule": str,
    "enabled": bool,
    "tier": int,
}


@pytest.fixture(scope="module")
def entry() -> dict:
    return json.loads(ENTRY.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def metadata(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The extension's metadata as CMake gives it to Slicer: name without ``EXTENSION_`` to value."""
    if shutil.which("cmake") is None or shutil.which("cc") is None:
        pytest.skip("CMake and a C compiler are needed to configure the extension")
    command = ["cmake", "-S", ROOT, "-B", tmp_path_factory.mktemp("build"), "-DBUILD_TESTING=OFF"]
    command.append(f"-DSlicer_DIR={ROOT / 'Testing' / 'slicer_stub'}")
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return dict(re.findall(r"^-- EXTENSION_(\w+)=(.*)$", done.stdout, re.MULTILINE))


class TestEntry:
    def test_it_is_what_the_schema_allows(self, entry):
        assert entry["$schema"] == SCHEMA
        assert {"category", "scm_url"} <= entry.keys()
        for name, value in entry.items():
            assert type(value) is FIELDS[name], name
        assert entry["scm_type"] in ("git", "local")
        assert 1 <= entry["tier"] <= 5
        assert all(type(name) is str for name in entry["build_dependencies"])

    def test_it_is_written_as_the_index_writes_its_entries(self, entry):
        """Two spaces, keys in order, a line break at the end: what the index's own checks ask for."""
        assert ENTRY.read_text(encoding="utf-8") == json.dumps(entry, indent=2, sort_keys=True) + "\n"

    def test_it_agrees_with_cmake(self, entry, metadata):
        assert ENTRY.stem == "CycleReg"
        assert entry["build_dependencies"] == metadata["DEPENDS"].split() == ["PyTorch"]
        assert entry["category"] == metadata["CATEGORY"]
        assert entry["scm_url"].removesuffix(".git") == metadata["HOMEPAGE"]


class TestPromises:
    def test_icon_and_screenshots_are_files_of_the_named_revision(self, entry, metadata):
        prefix = f"{metadata['HOMEPAGE']}/raw/{entry['scm_revision']}/"
        addresses = [metadata["ICONURL"], *metadata["SCREENSHOTURLS"].split()]
        assert len(addresses) >= 4
        for address in addresses:
            assert address.startswith(prefix)
            assert size_of(ROOT / address[len(prefix) :])
        assert size_of(ROOT / metadata["ICONURL"][len(prefix) :]) == (128, 128)

    def test_screenshots_are_large_enough_to_read(self):
        for path in (ROOT / "Docs" / "Screenshots").glob("*.png"):
            width, height = size_of(path)
            assert width >= 1200, path.name
            assert height >= 600, path.name

    def test_the_homepage_names_module_licence_and_publication(self):
        readme = (ROOT / "README.md").read_text(encoding="utf-8")
        assert readme.startswith("# CycleReg\n")
        assert "one module, **CycleReg**" in readme
        assert "Licence: Apache 2.0" in readme
        assert "https://doi.org/" in readme

    @pytest.mark.parametrize("page", ["README.md", "Docs/slicer.md", "Docs/extension.md"])
    def test_links_and_pictures_of_the_pages_are_there(self, page):
        path = ROOT / page
        targets = re.findall(r"\]\(([^)#\s]+)\)", path.read_text(encoding="utf-8"))
        local = [target for target in targets if "://" not in target]
        assert local
        for target in local:
            assert (path.parent / target).exists(), target


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of a PNG file."""
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n", path
    return struct.unpack(">II", head[16:24])
