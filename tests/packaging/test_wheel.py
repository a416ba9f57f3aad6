"""The wheel, in an environment of its own and far from the checkout: it compiles a model with the data that it carries."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "examples" / "digits" / "digits.onnx"


def run(command: list[str | Path], folder: Path) -> str:
    """The command's output; its errors are in the failure's message."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds the wheel, and sees the packages that it depends on, but not the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT], folder)
    (wheel,) = folder.glob("bnncc-*.whl")
    venv.create(folder / "env", with_pip=True)
    found = folder / "env" / "bin" / "python"
    run([found, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel], folder)
    # Added as a path, not as a site folder: the .pth that makes the checkout importable is not read from there.
    site = run([found, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder).strip()
    (Path(site) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return found


def test_wheel_brings_its_data(python: Path, tmp_path: Path) -> None:
    code = (
        "import bnncc\n"
        "from bnncc.resources import folder\n"
        "print(bnncc.__file__, *(folder(name) for name in ('templates', 'targets', 'firmware')), sep='\\n')"
    )
    package, *folders = run([python, "-c", code], tmp_path).splitlines()
    environment = python.parents[1]
    assert Path(package).is_relative_to(environment)
    for found in folders:
        assert Path(found).is_relative_to(environment)
        assert any(Path(found).iterdir())


def test_wheel_compiles_a_model_from_another_folder(python: Path, tmp_path: Path) -> None:
    run([python.with_name("bnncc"), "compile", MODEL, "--target", "cortex-m4", "-o", tmp_path / "c"], tmp_path)
    run([python.with_name("bnncc"), "verify", MODEL, "--target", "cortex-m4", "--samples", "2"], tmp_path)
    assert (tmp_path / "c" / "digits.c").is_file()


def test_wheel_holds_no_waste(python: Path) -> None:
    (wheel,) = python.parents[2].glob("bnncc-*.whl")
    names = run([sys.executable, "-m", "zipfile", "-l", wheel], python.parents[2])
    assert "bnncc/_data/templates/model.c.j2" in names
    assert "bnncc/_data/firmware/platformio.ini" in names
    assert "__pycache__" not in names
    assert ".pio" not in names
