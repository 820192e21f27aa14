"""The one recipe of the NAT runtime: requirements/nat.txt, installed by install.sh, whatever the image is for.

Dockerfile and apptainer.def call it on an ordinary base image. Here are the ways without one: a root directory from a
Debian mirror alone, for `docker import` and for apptainer; and the image of Modal's builder.
"""

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import ConfigError, MissingRuntime

if TYPE_CHECKING:
    from modal import Image

INSTALL = Path(__file__).with_name("install.sh")
REQUIREMENTS = Path(__file__).parents[3] / "requirements" / "nat.txt"
SUITE = "bookworm"
PACKAGES = ("bash", "ca-certificates", "python3", "python3-venv")
PYTHON = "3.12"
ENVIRONMENT = "/opt/nat"
RECIPE = "/opt/recipe"
COMMAND = ("env", "PIP_NO_CACHE_DIR=1", "sh", f"{RECIPE}/install.sh", ENVIRONMENT, f"{RECIPE}/nat.txt")


def make_root(directory: Path) -> None:
    """A Debian root directory with the runtime in it, made by mmdebstrap; as root, or in a user namespace.

    Raises MissingRuntime without mmdebstrap, ConfigError for a directory that holds something, CalledProcessError where
    a mirror or a package index does not answer; mmdebstrap and pip have said what is wrong by then.
    """
    program = shutil.which("mmdebstrap")
    if program is None:
        raise MissingRuntime("a root directory needs mmdebstrap: apt-get install mmdebstrap")
    if directory.exists() and any(directory.iterdir()):
        raise ConfigError(f"{directory}: is not empty; expected a directory to make")
    subprocess.run([program, *root_options(_requirements()), SUITE, str(directory)], check=True)


def root_options(requirements: Path) -> list[str]:
    """The options for mmdebstrap; what is installed with pip uses this machine's certificates."""
    copies = {"/etc/ssl/certs/ca-certificates.crt": "/etc/ssl/certs/", str(requirements): RECIPE, str(INSTALL): RECIPE}
    steps = [f'mkdir -p "$1"{RECIPE} "$1"/workspace', *(f'cp "{source}" "$1"{to}' for source, to in copies.items())]
    steps += ['cp /etc/resolv.conf "$1"/etc/', f'chroot "$1" {" ".join(COMMAND)}']
    hooks = [f"--customize-hook={step}" for step in steps]
    return ["--variant=minbase", "--mode=auto", f"--include={','.join(PACKAGES)}", *hooks]


def modal_image() -> "Image":
    """The image for Modal's builder. Raises MissingRuntime without Modal's package."""
    try:
        from modal import Image
    except ModuleNotFoundError as error:
        raise MissingRuntime("an image for Modal needs a package: pip install 'natgym[modal]'") from error
    image = Image.debian_slim(python_version=PYTHON)
    for source in (_requirements(), INSTALL):
        image = image.add_local_file(source, f"{RECIPE}/{source.name}", copy=True)
    return image.run_commands(" ".join(COMMAND)).env({"PATH": f"{ENVIRONMENT}/bin:/usr/local/bin:/usr/bin:/bin"})


def _requirements() -> Path:
    if not REQUIREMENTS.is_file():
        raise ConfigError(f"{REQUIREMENTS}: does not exist; images are made in a checkout of natgym")
    return REQUIREMENTS
