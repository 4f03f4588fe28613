"""Unit: setup_colab.sh, tools/install.py and the lists of packages, without a network."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import install
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import gt_helpers
from gt_helpers import environment
from gt_helpers.environment import SetupError, check_environment, in_colab, set_up

ROOT = Path(__file__).parents[2]
REFERENCE = Path(__file__).parents[3] / "shared"
LISTS = ("requirements.txt", "requirements-results.txt", "requirements-test.txt")
SETUP_FILES = ["setup_colab.sh", ".ci/run", *LISTS, "constraints.txt", "pyproject.toml"]
SETUP_FILES += ["tools/install.py", "gt_helpers/environment.py"]


def requirements(*names: str) -> dict[str, Requirement]:
    listed = install.read_requirements([ROOT / name for name in names], colab=False)
    return {canonicalize_name(r.name): r for r in listed}


def pins(path: Path) -> dict[str, str]:
    pinned = re.findall(r"^(\w[^=\[\n]*)[^=\n]*==(.*?)\s*$", path.read_text(), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in pinned}


# --- the lists -----------------------------------------------------------------------------------


def test_requirements_are_bounds_and_not_pins_and_hold_the_tested_versions() -> None:
    tested, listed = pins(ROOT / "constraints.txt"), requirements(*LISTS)
    for name, requirement in listed.items():
        assert {s.operator for s in requirement.specifier} <= {">=", "<"}
        assert requirement.specifier.contains(tested[name]), requirement
    lens = listed["transformer-lens"].specifier
    assert [v in lens for v in ("4.2.9", "4.3.0", "4.99", "5.0")] == [False, True, True, False]


def test_every_import_of_the_package_is_required() -> None:
    imported = set()
    for path in (ROOT / "gt_helpers").rglob("*.py"):
        if path.parent.name == "example_clone":  # it needs Rust, to be loaded without it
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Import(names):
                    imported |= {alias.name.split(".")[0] for alias in names}
                case ast.ImportFrom(str(module), level=0):
                    imported.add(module.split(".")[0])
    outside = imported - sys.stdlib_module_names - {"gt_helpers", "google", "IPython"}
    assert {canonicalize_name(name) for name in outside} <= set(requirements("requirements.txt"))


def test_package_metadata_takes_its_dependencies_from_the_lists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    dynamic = project["tool"]["setuptools"]["dynamic"]
    assert dynamic["dependencies"]["file"] == ["requirements.txt"]
    assert dynamic["optional-dependencies"]["test"]["file"] == list(LISTS[1:])
    assert project["project"]["requires-python"] == ">=3.11,<3.14"
    assert f"version: {gt_helpers.__version__}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.parametrize("name", SETUP_FILES)
def test_no_package_host_and_no_path_of_a_machine(name: str) -> None:
    hosts = r"index-url|find-links|trusted-host|pypi|pythonhosted"
    paths = r"(^|[\s\"'=])/(opt|root|home|work|tmp)/"
    assert not re.search(f"{hosts}|{paths}", (ROOT / name).read_text(), re.MULTILINE)


@pytest.mark.parametrize("python", ["312", "313"])
def test_colab_ships_versions_within_the_bounds(python: str) -> None:
    freeze = REFERENCE / "colab" / f"pip-freeze-py{python}.txt"
    if not freeze.is_file():
        pytest.skip("needs the list of what Colab ships")
    shipped = pins(freeze)
    listed = requirements(*LISTS)
    assert {"torch", "transformers", "plotly", "ipywidgets"} <= listed.keys() & shipped.keys()
    for name in listed.keys() & shipped.keys():
        assert listed[name].specifier.contains(shipped[name]), listed[name]


# --- tools/install.py, its parts -----------------------------------------------------------------


def test_what_is_unmet_and_what_was_changed() -> None:
    listed = [Requirement(text) for text in ("a>=2", "b<3", "c", "d_e>=1", "torch>=2.6")]
    versions = {"a": "1.9", "b": "2.1", "d-e": "1.0rc1", "torch": "2.11.0+cu128"}
    assert [str(r) for r in install.unmet(listed, versions)] == ["a>=2", "c", "d_e>=1"]
    before = {"numpy": "2.1.3", "scipy": "1.16", "same": "1"}
    after = {"numpy": "2.4.6", "same": "1", "new": "3"}
    assert install.changes(before, after) == ["numpy 2.1.3 -> 2.4.6", "scipy 1.16 -> removed"]


def test_lines_for_colab_markers_and_comments(tmp_path: Path) -> None:
    file = tmp_path / "r.txt"
    file.write_text("# a comment\na>=1\n\nb>=2  # why: not in Colab\nc; python_version < '3'\n")
    assert [r.name for r in install.read_requirements([file], colab=False)] == ["a", "b"]
    assert [r.name for r in install.read_requirements([file], colab=True)] == ["a"]


@pytest.mark.parametrize("colab", [True, False])
def test_a_changed_package_is_named_in_colab(colab: bool, tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "r.txt").write_text("new>=1\n")
    snapshots = iter([{"numpy": "2.1.3"}, {"numpy": "2.4.6", "new": "1.0"}])
    monkeypatch.setattr(install, "in_colab", lambda: colab)
    monkeypatch.setattr(install, "installed", lambda: next(snapshots))
    monkeypatch.setattr(install, "run_pip", lambda *_: 0)
    assert install.main([str(tmp_path / "r.txt")]) == colab
    output = capsys.readouterr().out
    assert ("numpy 2.1.3 -> 2.4.6" in output and "Restart the session" in output) == colab


# --- the script, with real pip and a few empty wheels --------------------------------------------


def make_wheel(folder: Path, name: str, version: str, *needs: str) -> Path:
    info, path = f"{name}-{version}.dist-info", folder / f"{name}-{version}-py3-none-any.whl"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    metadata += [f"Requires-Dist: {need}" for need in needs]
    tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{info}/METADATA", "\n".join(metadata) + "\n")
        wheel.writestr(f"{info}/WHEEL", tags)
        wheel.writestr(f"{info}/RECORD", "")
    return path


class Checkout:
    """A copy of the script in a folder with its own package lists and its own wheels."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wheels = folder / "wheels"
        self.environment = folder / ".venv"
        self.wheels.mkdir(parents=True)
        for name in ("setup_colab.sh", "tools/install.py", "gt_helpers/environment.py"):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
        self.write("constraints.txt", "")

    @property
    def packages(self) -> Path:
        (folder,) = self.environment.glob("lib/python*/site-packages")
        return folder

    def write(self, name: str, *lines: str) -> None:
        (self.folder / name).write_text("\n".join(lines) + "\n")

    def preinstall(self, name: str, version: str, *needs: str) -> None:
        """Put a package into the environment as if it had always been there."""
        with zipfile.ZipFile(make_wheel(self.folder, name, version, *needs)) as wheel:
            wheel.extractall(self.packages)

    def run(self, *arguments: str, status: int = 0, **variables: str) -> str:
        """Run the script, look whether it ends with this status, and return what it says."""
        keep = ("PATH", "HOME", "TMPDIR", "LANG", "SYSTEMROOT")
        clean = {name: os.environ[name] for name in keep if name in os.environ}
        clean |= {
            "PYTHON": sys._base_executable,  # type: ignore[attr-defined]
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": self.wheels.as_uri(),
        }
        result = subprocess.run(
            ["bash", str(self.folder / "setup_colab.sh"), *arguments],
            env=clean | variables,
            cwd=self.folder.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert result.returncode == status, result.stdout
        return result.stdout

    def versions(self) -> dict[str, str]:
        """What is installed in the environment, without pip's own packages."""
        found = dict(p.stem.split("-") for p in self.packages.glob("*.dist-info"))
        return {name: v for name, v in found.items() if name not in ("pip", "setuptools")}


@pytest.fixture(scope="module")
def empty_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .venv that the script made and installed nothing into."""
    first = Checkout(tmp_path_factory.mktemp("first") / "a folder")
    first.write("requirements.txt", "")
    said = first.run()
    assert "Creating" in said and "activate" in said
    return first.environment


@pytest.fixture
def checkout(tmp_path: Path, empty_environment: Path) -> Checkout:
    """A checkout with an empty .venv: making one takes seconds, copying does not."""
    result = Checkout(tmp_path / "a folder")
    shutil.copytree(empty_environment, result.environment, symlinks=True)
    return result


@pytest.mark.parametrize("script", ["setup_colab.sh", ".ci/run"])
def test_bash_can_read_the_scripts(script: str) -> None:
    subprocess.run(["bash", "-n", str(ROOT / script)], check=True)


def test_unknown_command_and_help(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path / "a")
    said = checkout.run("tests", status=2)
    assert re.fullmatch(r"Unknown command 'tests'; .* e\.g\. bash setup_colab\.sh test\.\n", said)
    assert "reproduce" in checkout.run("help") and "reproduce" in checkout.run("--help")
    assert not checkout.environment.exists()


def test_a_python_that_is_too_old_is_refused_in_one_sentence(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\ncase "$2" in *version_info*) echo 3.10 ;; *) exit 1 ;; esac\n')
    old.chmod(0o755)
    checkout = Checkout(tmp_path / "a")
    said = checkout.run(PYTHON=str(old), status=1)
    assert re.fullmatch(r".*3\.11, 3\.12 or 3\.13.* is 3\.10.*\n", said)
    assert not checkout.environment.exists()


def test_missing_packages_come_in_the_tested_versions_and_then_pip_rests(checkout) -> None:
    for version in ("1.0", "1.1", "1.2"):
        make_wheel(checkout.wheels, "alpha", version)
    checkout.write("requirements.txt", "alpha>=1.0")
    checkout.write("constraints.txt", "# a comment", "alpha==1.1", "unrelated==3")
    checkout.run()
    assert checkout.versions() == {"alpha": "1.1"}
    shutil.rmtree(checkout.packages / "pip" / "_internal")
    assert "already installed" in checkout.run()


def test_installed_torch_and_its_libraries_are_never_replaced(checkout: Checkout) -> None:
    checkout.preinstall("torch", "2.7.0+cu128", "cudalib==1.0")
    checkout.preinstall("cudalib", "2.0")  # not what torch declares, as in Colab
    make_wheel(checkout.wheels, "torch", "2.13.0")
    make_wheel(checkout.wheels, "cudalib", "1.0")
    make_wheel(checkout.wheels, "lens", "4.3", "torch>=2")
    checkout.write("requirements.txt", "torch>=2.6", "lens>=4.3")
    checkout.write("constraints.txt", "torch==2.13.0", "lens==4.3")
    checkout.run()
    assert checkout.versions() == {"torch": "2.7.0+cu128", "cudalib": "2.0", "lens": "4.3"}
    checkout.write("requirements.txt", "torch>=2.8", "lens>=4.3")
    assert "torch 2.7.0+cu128 is installed and is not replaced" in checkout.run(status=1)


def test_colab_keeps_everything_preinstalled(checkout: Checkout) -> None:
    colab = {"COLAB_RELEASE_TAG": "release", "PYTHON": str(checkout.environment / "bin/python")}
    checkout.preinstall("numpy", "2.1.3")
    make_wheel(checkout.wheels, "numpy", "2.4.6")
    make_wheel(checkout.wheels, "lens", "4.3", "numpy>=2.0")
    make_wheel(checkout.wheels, "lens", "4.4", "numpy>=2.4")  # would need a newer numpy
    checkout.write("requirements.txt", "numpy>=2.0", "lens>=4.3", "other>=1  # not in Colab")
    checkout.write("constraints.txt", "numpy==2.4.6", "lens==4.4")
    checkout.run(**colab)
    assert checkout.versions() == {"numpy": "2.1.3", "lens": "4.3"}
    assert "already installed" in checkout.run(**colab)
    checkout.write("requirements.txt", "numpy>=2.2")
    refused = checkout.run(**colab, status=1)
    assert "numpy 2.1.3 is installed" in refused and "session" in refused
    assert checkout.versions()["numpy"] == "2.1.3"


@pytest.mark.parametrize(
    ("command", "script"),
    [("reproduce", "gt_helpers/__main__.py"), ("results", "tools/run_all.py")],
)
def test_a_command_passes_arguments_and_status_on(command: str, script: str, checkout) -> None:
    checkout.write("requirements.txt", "")
    checkout.write("requirements-results.txt", "")
    checkout.write(script, "import sys", "print(sys.argv)", "sys.exit(7)")
    said = checkout.run(command, "--model", "two words", status=7)
    assert "'--model', 'two words']" in said


# --- gt_helpers.environment ----------------------------------------------------------------------


def test_check_environment_reports_what_notebooks_need(monkeypatch, capsys) -> None:
    named = ["Python", "torch", "transformer_lens", "plotly", "ipywidgets"]
    for reachable, verdict in ((True, "OK"), (False, "FAIL")):
        monkeypatch.setattr(environment, "hub_reachable", lambda answer=reachable: answer)
        assert check_environment()  # without the hub, mini is there
        *lines, last = capsys.readouterr().out.splitlines()
        assert all(line.startswith("[OK] ") for line in lines)
        names = [line.split(":")[0].removeprefix("[OK] ") for line in lines]
        assert names == [*named, "other packages", "device"]
        assert last.startswith(f"[{verdict}] gpt2-small: ")
        assert ('MODEL = "mini"' in last) is not reachable
    n = len(requirements("requirements.txt")) - len(named[1:])
    assert f"[OK] other packages: {n} in versions that fit" in lines
    assert re.search(r"plotly: \d\S+, renderer \w+", "\n".join(lines))


def test_check_environment_names_what_is_wrong(monkeypatch, capsys) -> None:
    wrong = [Requirement("no-such-package>=1"), Requirement("numpy>=99")]
    monkeypatch.setattr(environment, "_requirements", lambda: wrong)
    assert not check_environment()
    output = capsys.readouterr().out
    assert "[FAIL] no-such-package: not installed, needed is >=1" in output
    assert re.search(r"\[FAIL\] numpy: \d\S+, needed is >=99", output)
    assert "bash setup_colab.sh" in output


def test_set_up_installs_into_the_running_python(monkeypatch, capsys) -> None:
    monkeypatch.setattr(environment, "in_colab", lambda: False)
    monkeypatch.setattr(environment, "check_environment", lambda: print("checked") or True)
    before = list(ROOT.glob(".venv"))
    set_up()
    assert capsys.readouterr().out == "Everything needed is already installed.\nchecked\n"
    assert list(ROOT.glob(".venv")) == before


def test_set_up_runs_the_script_in_colab(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(environment, "in_colab", lambda: True)
    monkeypatch.setattr(environment, "check_environment", lambda: print("checked") or True)
    monkeypatch.setattr(environment, "_ROOT", tmp_path)
    script = tmp_path / "setup_colab.sh"
    script.write_text('echo "with $PYTHON"\n')
    set_up()
    assert capsys.readouterr().out == f"with {sys.executable}\nchecked\n"
    monkeypatch.setattr(environment, "check_environment", lambda: False)
    with pytest.raises(SetupError, match="the lines above say what"):
        set_up()
    capsys.readouterr()
    script.write_text('echo "no space" >&2\nexit 1\n')
    with pytest.raises(SetupError, match="the lines above say why") as failure:
        set_up()
    assert capsys.readouterr().out == "no space\n"
    assert failure.value._render_traceback_() == [f"Setup failed: {failure.value}"]


def test_in_colab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab")
    assert in_colab()
    monkeypatch.delenv("COLAB_RELEASE_TAG")
    assert not in_colab()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "google.colab" or None)
    assert in_colab()
