"""set_up and check_environment: is everything here that the notebooks need, and does it fit?

Imported before anything is installed, so nothing outside the standard library at the top.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_ROOT = Path(__file__).parents[1]
_HUB_SECONDS = 5
# These get a line of their own, and are imported: a version does not show a broken binary.
_NAMED = {"torch", "transformer_lens", "plotly", "ipywidgets"}


class SetupError(RuntimeError):
    """What kept the setup from working, in one sentence; notebooks show no traceback of it."""

    def _render_traceback_(self) -> list[str]:
        return [f"Setup failed: {self}"]


def in_colab() -> bool:
    """Whether this Python runs in Google Colab."""
    if os.environ.get("COLAB_RELEASE_TAG"):
        return True
    try:
        return importlib.util.find_spec("google.colab") is not None
    except (ImportError, ValueError):  # there is no package google, or one without a spec
        return False


def set_up() -> None:
    """Install what is missing into the running Python and print the environment check.

    The setup cell of the notebooks calls this. Raises SetupError if something is missing then.
    """
    if in_colab():
        command = ["bash", str(_ROOT / "setup_colab.sh")]
    else:  # without an environment the script would fill .venv, which this Python does not see
        command = [sys.executable, str(_ROOT / "tools/install.py"), str(_ROOT / "requirements.txt")]
    environment = {**os.environ, "PYTHON": sys.executable}
    with subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        for line in process.stdout or ():  # Colab shows what is printed here, not by a subprocess
            print(line, end="", flush=True)
    if process.returncode:
        raise SetupError("the packages could not be installed; the lines above say why.")
    importlib.invalidate_caches()
    if not check_environment():
        raise SetupError("something that is needed does not fit; the lines above say what.")


def check_environment() -> bool:
    """Print [OK] or [FAIL] lines: Python, packages, device, and whether GPT-2 small can be had.

    True if everything is installed. GPT-2 small out of reach is no failure: mini needs no network.
    """
    fine = all([_say(*check) for check in _checks()])  # a list, so that every line is printed
    if not fine:
        print("To install what is missing: bash setup_colab.sh")
    elif hub_reachable():
        _say("gpt2-small", True, "in the local cache or on the Hugging Face hub")
    else:
        why = "not cached, and the Hugging Face hub does not answer"
        _say("gpt2-small", False, f'{why}; MODEL = "mini" works')
    return fine


def _say(name: str, ok: bool, found: str) -> bool:
    print(f"[{'OK' if ok else 'FAIL'}] {name}: {found}", flush=True)
    return ok


def _checks() -> Iterator[tuple[str, bool, str]]:
    """What is looked at, whether it is fine, and what was found."""
    python = platform.python_version() + (" in Colab" if in_colab() else "")
    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield "Python", fits, python if fits else f"{python}, needed is 3.11, 3.12 or 3.13"
    others = 0
    for requirement in _requirements():
        ok, found = _package(requirement)
        if ok and requirement.name not in _NAMED:
            others += 1
        else:
            yield requirement.name, ok, found
    yield "other packages", True, f"{others} in versions that fit"
    yield "device", *_device()


def _requirements() -> list[Requirement]:
    """The project's requirements: from requirements.txt in a checkout, else from its metadata."""
    from packaging.requirements import Requirement

    file = _ROOT / "requirements.txt"
    if file.is_file():
        lines = [line.partition("#")[0] for line in file.read_text(encoding="utf-8").splitlines()]
    else:
        lines = importlib.metadata.requires("gpt2-greater-than") or []
    requirements = [Requirement(line.strip()) for line in lines if line.strip()]
    return [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]


def _package(requirement: Requirement) -> tuple[bool, str]:
    name, needed = requirement.name, f"needed is {requirement.specifier or 'any version'}"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False, f"not installed, {needed}"
    if not requirement.specifier.contains(version, prereleases=True):
        return False, f"{version}, {needed}"
    if name not in _NAMED:
        return True, version
    try:
        module = importlib.import_module(name)
    except Exception as error:  # a broken binary raises anything, ValueError for numpy's ABI
        return False, f"{version} does not import: {_first_line(error)}"
    renderer = f", renderer {module.io.renderers.default or 'none'}" if name == "plotly" else ""
    return True, version + renderer


def _device() -> tuple[bool, str]:
    try:
        import torch
    except Exception:
        return False, "unknown, torch does not import"
    if torch.cuda.is_available():
        return True, f"cuda ({torch.cuda.get_device_name()})"
    return True, f"cpu, {torch.get_num_threads()} threads (a GPU is faster)"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def hub_reachable(repo: str = "openai-community/gpt2") -> bool:
    """Whether a model can be had from the local cache or the hub, found out in a few seconds."""
    try:
        hub_snapshot(repo)
    except OSError:
        return False
    return True


def hub_snapshot(repo: str) -> Path | None:
    """The cached snapshot of a hub model, or None if the hub answers; OSError if neither."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    weights = [try_to_load_from_cache(repo, f) for f in ("model.safetensors", "pytorch_model.bin")]
    cached = [Path(path) for path in weights if isinstance(path, str)]
    tokenizer = try_to_load_from_cache(repo, "tokenizer.json")
    if cached and isinstance(tokenizer, str):
        return cached[0].parent
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "TRUE", "YES", "ON"):
        raise OSError("the Hugging Face hub cannot be reached (HF_HUB_OFFLINE is set)")
    try:
        get_hf_file_metadata(hf_hub_url(repo, "config.json"), timeout=_HUB_SECONDS)
    except GatedRepoError as error:
        raise OSError(f"the Hugging Face hub gives {repo!r} only to those it let in") from error
    except RepositoryNotFoundError as error:
        raise OSError(f"the Hugging Face hub has no model {repo!r}") from error
    except Exception as error:  # the hub client raises many kinds; all mean: no answer
        reason = _first_line(error)
        raise OSError(f"the Hugging Face hub cannot be reached ({reason})") from error
    return None
