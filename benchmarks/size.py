"""What an install of the core weighs and how fast it imports: `python benchmarks/size.py`.

Builds the wheel, installs it without extras and with the pinned versions into a new environment, and adds up what came
on top of what was there: the bytes of the files, compiled modules included, in units of 10^6. The import is timed in
fresh processes of that environment, start of the interpreter included; CPU time decides, because it is what the wall
time would be on a machine that does nothing else. Exit code 1 when a bar is missed.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from importlib.metadata import Distribution, distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST_MB = 210.0
MOST_SECONDS = 0.5
IMPORTS = 10
LISTED = 12


def size(folder: Path) -> int:
    """Bytes of all files below."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def size_of(package: Distribution) -> int:
    """Bytes of a package's files."""
    paths = [Path(str(package.locate_file(file))) for file in package.files or ()]
    return sum(path.stat().st_size for path in paths if path.is_file())


def packages(python: Path) -> dict[str, int]:
    """Bytes of every installed package."""
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    folder = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    return {package.name: size_of(package) for package in distributions(path=[folder])}


def pip(python: Path | str, *arguments: str | Path) -> None:
    subprocess.run([python, "-m", "pip", "--quiet", "--quiet", "--disable-pip-version-check", *arguments], check=True)


def import_seconds(python: Path, folder: str) -> tuple[float, float]:
    """CPU time and wall time of one import."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([python, "-I", "-c", "import retool_env"], check=True, cwd=folder)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        wheels, environment = Path(folder) / "wheels", Path(folder) / "environment"
        print("building the wheel", flush=True)
        pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", wheels, ROOT)
        (wheel,) = wheels.iterdir()
        venv.create(environment, with_pip=True)
        python = environment / "bin" / "python"
        bytes_before, packages_before = size(environment), packages(python)
        print(f"installing {wheel.name} and what it needs", flush=True)
        pip(python, "install", "--isolated", "--constraint", ROOT / "constraints.txt", wheel)
        added = {name: count for name, count in packages(python).items() if name not in packages_before}
        megabytes = (size(environment) - bytes_before) / 1e6
        imports = [import_seconds(python, folder) for _ in range(IMPORTS)]
    cpu, wall = (statistics.median(seconds) for seconds in zip(*imports, strict=True))
    for name, count in sorted(added.items(), key=lambda item: -item[1])[:LISTED]:
        print(f"{count / 1e6:8.1f} MB  {name}")
    print(f"{megabytes:8.1f} MB  in all, {len(added)} packages")
    rows = [
        ("core install", f"{megabytes:.0f} MB (at most {MOST_MB:.0f})", megabytes <= MOST_MB),
        ("import retool_env", f"{cpu:.3f} s CPU, {wall:.3f} s wall (at most {MOST_SECONDS} CPU)", cpu <= MOST_SECONDS),
    ]
    for what, figure, met in rows:
        print(f"{'met ' if met else 'MISSED'}  {what}: {figure}")
    return 0 if all(met for *_, met in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
