"""Packaging: every file reaches the extension, the library is found wherever it lies, and make finds a Python."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTED_MODULES = Path("lib/Slicer-5.8/qt-scripted-modules")
NOT_PACKAGED = {"CMakeLists.txt", ".DS_Store"}
FROM_PIP = ("numpy", "torch", "SimpleITK")


def run(command: Iterable[object], **options: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, f"{done.args}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def files_of(folder: Path) -> set[str]:
    """The files that belong to the product under ``folder``, relative to it."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.name not in NOT_PACKAGED
    }


def product() -> set[str]:
    """What has to lie in the folder of scripted modules: the module's files and, beside them, the library."""
    return files_of(ROOT / "CycleReg") | {f"CycleRegLib/{name}" for name in files_of(ROOT / "CycleRegLib")}


# ---------------------------------------------------------------------- CMake


def test_every_resource_is_listed():
    """Also where there is no CMake to run: scripts are collected, resources are named one by one."""
    text = (ROOT / "CycleReg" / "CMakeLists.txt").read_text(encoding="utf-8")
    body = re.search(r"set\(MODULE_PYTHON_RESOURCES\s(.*?)\)", text, re.DOTALL).group(1)
    listed = set(body.replace("${MODULE_NAME}", "CycleReg").split())
    assert listed == {name for name in files_of(ROOT / "CycleReg") if name.startswith("Resources/")}


@pytest.fixture(scope="module")
def extension(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The extension built against a stand-in for Slicer, and installed: (build tree, install tree)."""
    if shutil.which("cmake") is None or shutil.which("cc") is None:
        pytest.skip("CMake and a C compiler are needed to build the extension")
    build, installed = (tmp_path_factory.mktemp(name) for name in ("build", "installed"))
    stub = ROOT / "Testing" / "slicer_stub"
    run(["cmake", "-S", ROOT, "-B", build, f"-DSlicer_DIR={stub}", "-DBUILD_TESTING=ON"])
    run(["cmake", "--build", build])
    run(["cmake", "--install", build, "--prefix", installed])
    return build, installed


@pytest.mark.parametrize("tree", [0, 1], ids=["build tree", "installed"])
class TestExtension:
    def test_holds_every_file(self, extension, tree):
        assert files_of(extension[tree] / SCRIPTED_MODULES) == product()

    def test_imports_and_finds_its_resources(self, extension, tree):
        folder = extension[tree] / SCRIPTED_MODULES
        out = run([sys.executable, "-I", "-c", FIND_LIBRARY, folder])
        assert out.split() == [str(folder / "CycleRegLib" / "__init__.py")]
        code = (
            "import sys, pathlib; sys.path.insert(0, sys.argv[1]); sys.modules.update(qt=None)\n"
            "import CycleReg, CycleRegPanel.Library\n"
            "resources = pathlib.Path(CycleReg.__file__).parent / 'Resources'\n"
            "print((resources / 'UI/CycleReg.ui').is_file(), (resources / 'Icons/CycleReg.png').is_file())\n"
            "print((resources / 'requirements.txt').is_file())\n"
        )
        assert run([sys.executable, "-I", "-c", code, folder]).split() == ["True"] * 3


def test_the_self_test_is_registered_with_ctest(extension):
    assert "py_CycleReg" in run(["ctest", "-N"], cwd=extension[0])


def test_a_new_file_is_packaged_without_touching_cmake(tmp_path):
    """The lists are collected again at every build, so that no file is forgotten."""
    if shutil.which("cmake") is None or shutil.which("cc") is None:
        pytest.skip("CMake and a C compiler are needed to build the extension")
    source, build = tmp_path / "source", tmp_path / "build"
    for name in ("CMakeLists.txt", "LICENSE.txt", "CycleReg", "CycleRegLib"):
        copy(ROOT / name, source / name)
    run(["cmake", "-S", source, "-B", build, f"-DSlicer_DIR={ROOT / 'Testing' / 'slicer_stub'}", "-DBUILD_TESTING=OFF"])
    for name in ("CycleRegLib/deep/er/new.py", "CycleRegLib/weights/new.safetensors", "CycleReg/CycleRegPanel/New.py"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).touch()
    run(["cmake", "--build", build])
    packaged = files_of(build / SCRIPTED_MODULES)
    assert {"CycleRegLib/deep/er/new.py", "CycleRegLib/weights/new.safetensors", "CycleRegPanel/New.py"} <= packaged


# ---------------------------------------------------------------------- where the library comes from

# What CycleReg.py does in Slicer, where only its own folder is on the path.
FIND_LIBRARY = (
    "import sys; sys.path.insert(0, sys.argv[1])\n"
    "import CycleRegPanel\n"
    "import CycleRegLib; print(CycleRegLib.__file__)\n"
)


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


class TestLibrary:
    def test_a_checkout_with_only_the_modules_folder_on_the_path(self, tmp_path):
        copy(ROOT / "CycleReg", tmp_path / "checkout" / "CycleReg")
        copy(ROOT / "CycleRegLib", tmp_path / "checkout" / "CycleRegLib")
        out = run([sys.executable, "-I", "-c", FIND_LIBRARY, tmp_path / "checkout" / "CycleReg"])
        assert out.strip() == str(tmp_path / "checkout" / "CycleRegLib" / "__init__.py")

    def test_its_own_library_wins_over_another_one(self, tmp_path):
        """A module and a library of different versions never meet, whatever was installed before."""
        copy(ROOT / "CycleReg", tmp_path / "checkout" / "CycleReg")
        copy(ROOT / "CycleRegLib", tmp_path / "checkout" / "CycleRegLib")
        (tmp_path / "old" / "CycleRegLib").mkdir(parents=True)
        (tmp_path / "old" / "CycleRegLib" / "__init__.py").touch()
        code = f"import sys; sys.path.insert(0, {str(tmp_path / 'old')!r})\n" + FIND_LIBRARY
        out = run([sys.executable, "-I", "-c", code, tmp_path / "checkout" / "CycleReg"])
        assert out.strip() == str(tmp_path / "checkout" / "CycleRegLib" / "__init__.py")

    def test_installed_with_pip(self, tmp_path):
        """The wheel holds every file of the library, and a module without a library of its own uses it."""
        for name in ("CycleRegLib", "pyproject.toml", "README.md", "LICENSE.txt"):
            copy(ROOT / name, tmp_path / "source" / name)
        site = tmp_path / "site"
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        run([*pip, "--no-deps", "--no-build-isolation", "--no-index", "--target", site, tmp_path / "source"])
        assert files_of(site / "CycleRegLib") == files_of(ROOT / "CycleRegLib")
        copy(ROOT / "CycleReg", tmp_path / "module" / "CycleReg")
        code = f"import sys; sys.path.insert(0, {str(site)!r})\n" + FIND_LIBRARY
        out = run([sys.executable, "-I", "-c", code, tmp_path / "module" / "CycleReg"])
        assert out.strip() == str(site / "CycleRegLib" / "__init__.py")


def test_the_list_of_methods_needs_no_pytorch():
    """Slicer opens the panel before PyTorch is installed."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); sys.modules['torch'] = None\n"
        "from CycleRegLib.methods import list_methods; print(len(list_methods()))\n"
    )
    assert int(run([sys.executable, "-I", "-c", code, ROOT])) >= 1


# ---------------------------------------------------------------------- requirements


def dependencies() -> dict[str, str]:
    """The library's dependencies of pyproject.toml: name -> smallest version."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    body = re.search(r"^dependencies = \[(.*?)\]", text, re.DOTALL | re.MULTILINE).group(1)
    return dict(re.findall(r'"([\w-]+)>=([\d.]+)"', body))


def test_the_panel_asks_for_what_slicer_lacks():
    lines = (ROOT / "CycleReg" / "Resources" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    listed = dict(line.split(">=") for line in lines if line and not line.startswith("#"))
    assert listed == {name: least for name, least in dependencies().items() if name not in FROM_PIP}


def test_the_pinned_environment_satisfies_pyproject():
    text = (ROOT / "Testing" / "requirements.txt").read_text(encoding="utf-8")
    pins = re.findall(r"^([\w-]+)==([\d.]+)(?:; .*)?$", text, re.MULTILINE)
    assert len(pins) == len([line for line in text.splitlines() if line and not line.startswith("#")])
    for name, least in dependencies().items():
        versions = [numbers(version) for pinned, version in pins if pinned == name]
        assert versions, f"{name} is not pinned"
        assert min(versions) >= numbers(least)


def numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]


# ---------------------------------------------------------------------- the interpreter for make


class Interpreters:
    """A PATH of invented Python interpreters, on which Testing/find-python.sh looks around."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, name: str, version: str, venv: bool = True) -> None:
        path = self.folder / name
        short = ".".join(version.split()[1].split(".")[:2])
        path.write_text(
            "#!/bin/sh\n"
            'case "$2" in\n'
            f'*platform*) echo "{version}" ;;\n'
            f"*ensurepip*) exit {0 if venv else 1} ;;\n"
            f'*version_info*) echo "{short}" ;;\n'
            "esac\n"
        )
        path.chmod(0o755)

    def find(self, **environment: str) -> tuple[int, str, str]:
        done = subprocess.run(
            ["/bin/sh", str(ROOT / "Testing" / "find-python.sh")],
            env={"PATH": str(self.folder), **environment},
            capture_output=True,
            text=True,
            timeout=30,
        )
        return done.returncode, done.stdout.strip(), done.stderr


@pytest.mark.skipif(os.name != "posix", reason="make builds the environment on Linux and macOS")
class TestFindPython:
    @pytest.fixture
    def path(self, tmp_path):
        return Interpreters(tmp_path)

    def test_the_system_python_is_taken_when_it_fits(self, path):
        path.add("python3", "CPython 3.12.4")
        path.add("python3.11", "CPython 3.11.9")
        assert path.find()[:2] == (0, str(path.folder / "python3"))

    @pytest.mark.parametrize("version", ["CPython 3.9.19", "CPython 3.14.0", "PyPy 3.10.14"])
    def test_an_unfit_one_is_passed_over(self, path, version):
        path.add("python3", version)
        path.add("python3.11", "CPython 3.11.9")
        assert path.find()[:2] == (0, str(path.folder / "python3.11"))

    def test_one_that_cannot_make_environments_is_passed_over(self, path):
        path.add("python3", "CPython 3.11.2", venv=False)
        path.add("python3.10", "CPython 3.10.14")
        assert path.find()[:2] == (0, str(path.folder / "python3.10"))

    def test_without_ensurepip_it_says_which_package_to_install(self, path):
        path.add("python3", "CPython 3.11.2", venv=False)
        status, found, message = path.find()
        assert (status, found) == (1, "")
        assert "apt-get install python3.11-venv" in message

    def test_without_any_it_says_what_is_needed_and_what_is_there(self, path):
        path.add("python3", "CPython 3.9.19")
        status, found, message = path.find()
        assert (status, found) == (1, "")
        assert "3.10, 3.11, 3.12 or 3.13" in message
        assert "python3 (CPython 3.9.19)" in message

    def test_a_named_one_is_the_only_candidate(self, path):
        path.add("python3", "CPython 3.12.4")
        path.add("mine", "CPython 3.13.1")
        path.add("older", "CPython 3.8.20")
        assert path.find(PYTHON="mine")[:2] == (0, str(path.folder / "mine"))
        status, found, message = path.find(PYTHON="older")
        assert (status, found) == (1, "")
        assert "PYTHON=older" in message
