"""`natgym env init NAME`: an environment of your own that works, with its test, in a folder of its name."""

import argparse
from keyword import iskeyword
from pathlib import Path

from core.errors import UnknownName, UserError
from core.settings import Settings

STARTER = Path(__file__).parent.parent / "starter"
FILES = ("my_env.py", "test_my_env.py.txt", "pyproject.toml")  # the test imports what is no package of ours: a text here


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("verb", metavar="init")
    parser.add_argument("name", metavar="NAME", help="of the environment and its module: letters, digits and _")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the folder that is made (./NAME)")


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Write the files and say what can be done with them. Raises UserError where the folder holds something."""
    if arguments.verb != "init":
        raise UnknownName("verb of natgym env", arguments.verb, ["init"])
    folder = begin(arguments.name, arguments.out or Path(arguments.name))
    kind = class_name(arguments.name)
    print(f"{folder}   {', '.join(path.name for path in sorted(folder.iterdir()))}")
    print(f"  cd {folder} && natgym check {arguments.name}:{kind}     or: python -m {arguments.name} check")
    print(f"  python -m pip install -e {folder}     and its name is {arguments.name!r} everywhere")
    return 0


def begin(name: str, folder: Path) -> Path:
    """Write an environment of that name into a folder, which is made. Raises UserError."""
    if not name.isidentifier() or not name.isascii() or iskeyword(name) or not class_name(name).isidentifier():
        raise UserError(f"natgym env init {name}: expected a name of letters, digits and _, such as my_env")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: exists and is not an empty folder; choose another by --out DIR")
    folder.mkdir(parents=True, exist_ok=True)
    for file in FILES:
        text = (STARTER / file).read_text(encoding="utf-8")
        renamed = text.replace("my_env", name).replace("MyEnv", class_name(name))
        (folder / file.replace("my_env", name).removesuffix(".txt")).write_text(renamed, encoding="utf-8")
    return folder


def class_name(name: str) -> str:
    """`MyEnv` for `my_env`."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))
