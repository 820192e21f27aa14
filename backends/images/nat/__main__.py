"""Make a root directory with the NAT runtime, without a registry of images: python -m backends.images.nat root DIRECTORY"""

import argparse
import sys
from pathlib import Path
from subprocess import CalledProcessError

from backends.images.nat import make_root
from core.errors import UserError


def main() -> int:
    """The program; 2 after a mistake of its user, 1 where mmdebstrap failed."""
    parser = argparse.ArgumentParser(prog="python -m backends.images.nat", description=__doc__)
    parser.add_argument("what", choices=["root"])
    parser.add_argument("directory", type=Path)
    arguments = parser.parse_args()
    try:
        make_root(arguments.directory)
    except UserError as error:
        sys.stderr.write(f"natgym: {error}\n")
        return error.exit_code
    except CalledProcessError as error:
        sys.stderr.write(f"natgym: mmdebstrap failed with exit code {error.returncode}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
