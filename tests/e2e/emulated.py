"""An arm64 machine without a board: Debian's arm64 libraries and Python, wheels for arm64, and qemu's user mode.

Everything comes from package registries, needs no root, and is kept below `.arm64/` of the checkout.
"""

from __future__ import annotations

import fcntl
import hashlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

CACHE = Path(__file__).parents[2] / ".arm64"
# A core of the Orin's instruction set: dot product and half precision, no SVE. `max` would take kernels that no board has.
CORE = "cortex-a76"
_FEATURES = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
# ONNX Runtime asks the kernel for the core's part number, and qemu 7.2 would show the host's list.
CPUINFO = (
    f"processor\t: 0\nBogoMIPS\t: 62.50\nFeatures\t: {_FEATURES}\nCPU implementer\t: 0x41\n"
    "CPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: 0xd0b\nCPU revision\t: 1\n\n"
)
_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
_BINARIES = ("qemu-aarch64-static", "qemu-aarch64")


@dataclass(frozen=True)
class Emulated:
    """The machine.

    Attributes:
        qemu: Program of the host that runs programs for arm64.
        root: Folder that stands for ``/``: libraries and Python.
        python: Path of Python inside it.
        packages: Folder of the installed wheels, moir-edge's own beside it.
    """

    qemu: Path
    root: Path
    python: Path
    packages: Path

    @property
    def moir_edge(self) -> Path:
        """Folder of the unpacked wheel."""
        return self.packages / "moir-edge"

    def command(self, code: Path, *words: str | Path) -> list[str]:
        """Return the command that runs a script of the host."""
        variables = {
            "PYTHONPATH": f"{self.moir_edge}:{self.packages / 'dependencies'}",
            "OMP_NUM_THREADS": "1",
        }
        settings = [word for key, text in variables.items() for word in ("-E", f"{key}={text}")]
        where = ["-cpu", CORE, "-L", str(self.root), *settings]
        return [str(self.qemu), *where, str(self.python), "-P", str(code), *map(str, words)]


def why_not() -> str | None:
    """Return why this machine cannot be set up here; None if it can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "emulation is set up on Linux on x86-64"
    if "ID=debian" not in Path("/etc/os-release").read_text().splitlines():
        return "the arm64 libraries come from Debian's own archive, with Debian's apt"
    return None


def emulated(wheel: Path, folder: Path) -> Emulated:
    """Return the machine with a wheel of moir-edge and its base dependencies; what is missing is fetched.

    Args:
        wheel: Of this checkout.
        folder: Where the wheel is unpacked.
    """
    root = _kept("debian", codename(), _fetch_debian)
    python = next(root.glob("root/usr/bin/python3.[0-9]*"))
    pins = _pins(wheel)
    key = hashlib.sha256(f"{python.name} {pins}".encode()).hexdigest()[:12]
    dependencies = _kept("wheels", key, lambda at: _fetch_wheels(at, python.name, pins))
    packages = folder / "packages"
    with zipfile.ZipFile(wheel) as files:
        files.extractall(packages / "moir-edge")
    (packages / "dependencies").symlink_to(dependencies)
    qemu = next(path for name in _BINARIES for path in root.glob(f"qemu/{name}"))
    return Emulated(qemu, root / "root", python, packages)


def codename() -> str:
    """Return the name of this Debian, ``bookworm``."""
    found = re.search(r"^VERSION_CODENAME=(\w+)$", Path("/etc/os-release").read_text(), re.M)
    assert found, "/etc/os-release names no version"
    return found[1]


def _kept(kind: str, key: str, fetch: Callable[[Path], None]) -> Path:
    """Return a folder of the cache, made whole by one process where it is missing; an older one of its kind goes."""
    wanted = CACHE / f"{kind}-{key}"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not wanted.is_dir():
            for old in CACHE.glob(f"{kind}-*"):
                shutil.rmtree(old)
            with tempfile.TemporaryDirectory(dir=CACHE, ignore_cleanup_errors=True) as draft:
                fetch(Path(draft) / kind)
                (Path(draft) / kind).rename(wanted)
    return wanted


def _fetch_debian(folder: Path) -> None:
    """Unpack arm64 libraries and Python below ``root``, and qemu beside it."""
    with _apt(folder) as apt:
        apt("update")
        shown = apt("show", "python3:arm64", tool="apt-cache")
        python = re.search(r"^Depends: .*?(python3\.\d+)", shown, re.M)
        assert python, shown
        wanted = (f"{python[1]}:arm64", "libstdc++6:arm64")
        words = ("-y", "--download-only", "--no-install-recommends", "install", *wanted)
        apt(*words)
        for archive in (folder / "apt/cache/archives").glob("*_a*.deb"):
            if archive.stem.endswith(("_arm64", "_all")):
                subprocess.run(["dpkg", "-x", archive, folder / "root"], check=True)
        _fetch_qemu(folder, apt)
    proc = folder / "root/proc"
    proc.mkdir()
    (proc / "cpuinfo").write_text(CPUINFO)


def _fetch_qemu(folder: Path, apt: Callable[..., str]) -> None:
    """Put the one program of qemu's package that runs arm64 below ``qemu``."""
    (folder / "qemu").mkdir()
    installed = next((path for name in _BINARIES if (path := shutil.which(name))), None)
    if installed:
        (folder / "qemu" / Path(installed).name).symlink_to(installed)
        return
    apt("download", "qemu-user-static", cwd=folder / "apt")
    (archive,) = (folder / "apt").glob("qemu-user*.deb")
    members = [f"./usr/bin/{_BINARIES[0]}"]
    with subprocess.Popen(["dpkg", "--fsys-tarfile", archive], stdout=subprocess.PIPE) as stream:
        words = ["tar", "-x", "--strip-components=3", "-C", folder / "qemu", *members]
        subprocess.run(words, stdin=stream.stdout, check=True)


@contextmanager
def _apt(folder: Path) -> Iterator[Callable[..., str]]:
    """Give a function that runs apt on lists and caches of its own, with the machine's own sources of Debian."""
    home = folder / "apt"
    for name in ("state/lists/partial", "cache/archives/partial", "sources"):
        (home / name).mkdir(parents=True)
    (home / "state/status").touch()
    _copy_sources(home / "sources")
    options = {
        "APT::Architecture": "amd64",
        "APT::Architectures::": "amd64",
        "APT::Architectures:: ": "arm64",
        "APT::Sandbox::User": "root",  # of a root user; others have no sandbox
        "Debug::NoLocking": "1",
        "Dir::State": home / "state",
        "Dir::State::status": home / "state/status",
        "Dir::Cache": home / "cache",
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": home / "sources",
    }
    flags = [word for key, value in options.items() for word in ("-o", f"{key.strip()}={value}")]

    def run(*words: str, tool: str = "apt-get", cwd: Path | None = None) -> str:
        command = [tool, *flags, "-qq", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
        return done.stdout

    yield run
    shutil.rmtree(home)


def _copy_sources(folder: Path) -> None:
    """Copy the files of apt's configuration that name this Debian; those of other archives may lack arm64."""
    own = re.compile(rf"^(?:Suites:|deb\b).*(?<![\w-]){codename()}(?!\w)", re.M)
    files = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    texts = {path.name: path.read_text() for path in files if path.is_file()}
    for name, text in texts.items():
        if own.search(text):
            (folder / name).write_text(text)
    assert any(folder.iterdir()), f"no source of apt names {codename()}: {', '.join(texts)}"


def _pins(wheel: Path) -> str:
    """Return the base dependencies of a wheel in the versions of this environment, so that only the machine differs."""
    with zipfile.ZipFile(wheel) as files:
        name = next(name for name in files.namelist() if name.endswith(".dist-info/METADATA"))
        text = files.read(name).decode()
    required = re.findall(r"^Requires-Dist: ([\w.-]+)[^;\n]*$", text, re.M)
    assert "onnxruntime" in required
    return "\n".join(f"{one}=={version(one)}" for one in required)


def _fetch_wheels(folder: Path, python: str, pins: str) -> None:
    platforms = [word for name in _PLATFORMS for word in ("--platform", f"{name}_aarch64")]
    where = ["--python-version", python.removeprefix("python"), "--implementation", "cp"]
    words = ["install", "--quiet", "--target", str(folder), "--only-binary=:all:"]
    command: Sequence[str] = (sys.executable, "-m", "pip", *words, *where, *platforms)
    subprocess.run([*command, *pins.split("\n")], check=True)
