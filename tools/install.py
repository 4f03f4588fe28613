"""Install the packages of requirements files that are missing, and change nothing else.

``python tools/install.py requirements.txt [more.txt]`` installs into the Python that runs it. In
Colab every installed package is frozen, elsewhere only torch: a frozen package is passed to pip as
a constraint and is seen by pip as a package without dependencies. The second half matters because
Colab's CUDA libraries are not the versions that its torch declares; pip would exchange them.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # a script sees only its own folder
from gt_helpers.environment import in_colab

try:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name
    from packaging.version import InvalidVersion, Version
except ImportError:  # a new virtual environment holds nothing but pip
    from pip._vendor.packaging.requirements import Requirement  # type: ignore[assignment]
    from pip._vendor.packaging.utils import canonicalize_name  # type: ignore[assignment]
    from pip._vendor.packaging.version import (  # type: ignore[assignment]
        InvalidVersion,
        Version,
    )

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
# The packages that exist only as source; both are pure Python. Everything else must come as a
# wheel, so that no compiler is ever called.
SOURCE_ONLY = "transformers-stream-generator,future"
NOT_IN_COLAB = "not in Colab"


def read_requirements(paths: Iterable[Path | str], colab: bool) -> list[Requirement]:
    """The requirements of some files that apply to this Python and this place."""
    requirements = []
    for path in paths:
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            text, _, comment = line.partition("#")
            if not text.strip() or (colab and comment.rstrip().endswith(NOT_IN_COLAB)):
                continue
            requirement = Requirement(text.strip())
            if requirement.marker is None or requirement.marker.evaluate():
                requirements.append(requirement)
    return requirements


def installed() -> dict[str, str]:
    """Name and version of every installed package."""
    importlib.invalidate_caches()
    versions: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name:  # of two copies on the path, Python imports the first
            versions.setdefault(canonicalize_name(name), distribution.version)
    return versions


def unmet(requirements: Iterable[Requirement], versions: Mapping[str, str]) -> list[Requirement]:
    """The requirements that no installed version satisfies.

    Dependencies of dependencies need no look: pip installs them before what asks for them.
    """

    def met(requirement: Requirement) -> bool:
        version = versions.get(canonicalize_name(requirement.name))
        return version is not None and requirement.specifier.contains(version, prereleases=True)

    return [requirement for requirement in requirements if not met(requirement)]


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """What happened to packages that were there before, e.g. ["numpy 2.1.3 -> 2.4.6"]."""
    return [
        f"{name} {version} -> {after.get(name, 'removed')}"
        for name, version in sorted(before.items())
        if after.get(name) != version
    ]


def is_version(text: str) -> bool:
    """Whether pip can read a version; some system packages carry others."""
    try:
        Version(text)
    except InvalidVersion:
        return False
    return True


def constraint_lines(
    versions: Mapping[str, str], frozen: Mapping[str, str], tested: Iterable[str]
) -> list[str]:
    """The constraints for pip: frozen packages as they are, missing ones as tested."""
    lines = [f"{name}=={version}" for name, version in frozen.items()]
    for line in tested:
        text = line.partition("#")[0].strip()
        if text and canonicalize_name(Requirement(text).name) not in versions:
            lines.append(text)
    return lines


def run_pip(
    requirements: Iterable[Requirement], constraints: Iterable[str], frozen: Mapping[str, str]
) -> int:
    """Call pip once; returns its exit status."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "constraints.txt"
        file.write_text("\n".join(constraints) + "\n", encoding="utf-8")
        for name, version in frozen.items():
            info = Path(folder) / f"{name.replace('-', '_')}-{version}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8"
            )
        path = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input"]
        command += ["--disable-pip-version-check", "--constraint", str(file)]
        command += ["--only-binary=:all:", f"--no-binary={SOURCE_ONLY}"]
        command += [str(requirement) for requirement in requirements]
        return subprocess.run(command, env={**os.environ, "PYTHONPATH": path}).returncode


def main(paths: list[str]) -> int:
    """Install what the requirements files ask for; 0 if it is all there and nothing changed."""
    colab = in_colab()
    requirements = read_requirements(paths, colab)
    before = installed()
    missing = unmet(requirements, before)
    if not missing:
        print("Everything needed is already installed.")
        return 0

    frozen = {k: v for k, v in before.items() if (colab or k == "torch") and is_version(v)}
    for requirement in missing:
        version = frozen.get(canonicalize_name(requirement.name))
        if version:
            fresh = (
                "start a fresh session (Runtime > Disconnect and delete runtime)"
                if colab
                else "upgrade it yourself or use a fresh virtual environment"
            )
            print(
                f"{requirement.name} {version} is installed and is not replaced, but this project "
                f"needs {requirement}; {fresh} and run the setup again."
            )
            return 1

    names = ", ".join(requirement.name for requirement in missing)
    print(f"Installing {names} (one to several minutes) ...", flush=True)
    tested = [] if colab else CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    status = run_pip(requirements, constraint_lines(before, frozen, tested), frozen)

    after = installed()
    changed = changes(frozen, after)
    if changed:
        print(f"These packages were changed by the install: {'; '.join(changed)}.")
        print("Restart the session (Runtime > Restart session), then run the setup again.")
        return 1
    if status:
        print("pip could not install the packages; its message above says why.")
        return status
    missing = unmet(requirements, after)
    if missing:
        print(f"pip ended without an error, but {missing[0]} is still not installed.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
