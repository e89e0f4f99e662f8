"""Installs edgetem with pip where there is no ROS distribution: the same CMake project that colcon builds.

CMake compiles the interfaces and lays out lib/, share/ and the generated Python package; everything that it installs
becomes a data file under the environment's prefix. Hand-written Python is an ordinary package. All versions, of what the
build needs as of what runs, come from requirements.lock, so the interfaces meet the very ROS wheels they were built with.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections import defaultdict
from pathlib import Path

from setuptools import Distribution, find_packages, setup
from distutils.command.install_data import install_data

HERE = Path(__file__).resolve().parent
STAGE = HERE / "build" / "stage"
LOCK = [line.split(";")[0].strip() for line in (HERE / "requirements.lock").read_text().splitlines()
        if line.strip() and not line.startswith("#")]
BUILD_TOOLS = re.compile(r"^(ros[-_]|rosidl_|rosgraph_|catkin|cmake=|ninja=|numpy=|empy=|lark|setuptools=|wheel=|pyparsing|"
                         r"docutils|python-dateutil|six|packaging|PyYAML|pyyaml|importlib)", re.IGNORECASE)
RUNTIME = (HERE / "requirements.in").read_text().split("# --- to build and test")[0]
RUNTIME_NAMES = {re.split(r"[\[=<>~ ]", line)[0].lower() for line in RUNTIME.splitlines()
                 if line.strip() and not line.startswith("#")}


class InterfacesDistribution(Distribution):
    """A distribution with compiled parts, whose data files also reach an editable install."""

    def has_ext_modules(self):
        return True

    def has_data_files(self):
        return True

    has_data = has_data_files  # what an editable install asks for


class InstallCMakeProject(install_data):
    """Run CMake into build/stage and install as data files what it installs there.

    This is not a build step of its own because an editable install ignores errors of those.
    """

    def run(self):
        compile_interfaces()
        self.data_files = staged_files()
        super().run()


def compile_interfaces():
    """Configure, build and install the CMake project into build/stage."""
    prefix = Path(sysconfig.get_path("data"))
    prefixes = dict.fromkeys([*(Path(p).parents[2] for p in sys.path if p.endswith("site-packages")), prefix])
    search = [str(p) for p in prefixes if (p / "share" / "ament_cmake").is_dir()]
    if not search:
        raise SystemExit("the ROS build wheels of requirements.lock are not installed in this environment: use "
                         "'pip install .' (with build isolation) or 'make', or colcon on a ROS 2 installation")
    environment = {**os.environ, "AMENT_PREFIX_PATH": os.pathsep.join(search)}
    environment["PATH"] = os.pathsep.join([*(str(Path(p) / "bin") for p in search), environment.get("PATH", "")])
    environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    # An isolated build leaves paths in CMake's cache that are gone the next time: every environment has its own folder.
    environment_hash = hashlib.sha256(repr((search, sys.version)).encode()).hexdigest()[:12]
    build = HERE / "build" / f"cmake-{environment_hash}"
    shutil.rmtree(STAGE, ignore_errors=True)
    run = lambda *command: subprocess.run(command, check=True, env=environment, cwd=HERE)  # noqa: E731
    run("cmake", "-S", str(HERE), "-B", str(build), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_TESTING=OFF",
        f"-DCMAKE_PREFIX_PATH={';'.join(search)}", f"-DPython3_EXECUTABLE={sys.executable}",
        f"-DCMAKE_INSTALL_PREFIX={STAGE}", "--log-level=WARNING")
    run("cmake", "--build", str(build))
    run("cmake", "--install", str(build), "--strip")


def staged_files():
    """What CMake installed, as setuptools data files; headers and the hand-written package are left out."""
    folders = defaultdict(list)
    for path in sorted(STAGE.rglob("*")):
        relative = path.relative_to(STAGE)
        if path.is_dir() or relative.parts[0] in ("include", "bin") or "__pycache__" in relative.parts:
            continue
        if "site-packages" in relative.parts and "edgetem" not in relative.parts:
            continue
        folders[str(relative.parent)].append(str(path.relative_to(HERE)))
    return sorted(folders.items())


setup(
    name="edgetem",
    version="0.1.0",
    description="An autonomous scanning transmission electron microscope as a ROS 2 node graph",
    license="Apache-2.0",
    python_requires=">=3.11,<3.13",
    packages=find_packages(include=["edgetem_nodes", "edgetem_nodes.*"]),
    package_data={"edgetem_nodes": ["**/*.html", "**/*.json", "**/*.md", "**/*.npz"]},
    setup_requires=[line for line in LOCK if BUILD_TOOLS.match(line)],
    install_requires=[line for line in LOCK if re.split("[=\\[]", line)[0].lower() in RUNTIME_NAMES],
    extras_require={"dft": ["pyscf==2.14.0"]},
    entry_points={"console_scripts": ["edgetem = edgetem_nodes.operator.cli:main"]},
    cmdclass={"install_data": InstallCMakeProject},
    distclass=InterfacesDistribution,
    zip_safe=False,
)
