"""The jobs of `terminal_tasks`: what is asked, what is there, what has to be there in the end, and how it is done."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

NAMES = ("web", "mail", "cache", "billing", "search", "auth", "media", "stock")
WORDS = ("apple", "river", "stone", "cloud", "paper", "tiger", "music", "ocean", "piano", "lemon")


@dataclass(frozen=True)
class Job:
    """One task of the shell."""

    ask: str
    gold: str
    """Commands that do it."""
    files: Mapping[str, str] = field(default_factory=dict)
    """What is there at the start: path -> text."""
    expected: Mapping[str, str] = field(default_factory=dict)
    """What has to be there in the end."""
    prints: Mapping[str, str] = field(default_factory=dict)
    """Command -> what it has to print; the commands are not told to the policy."""
    absent: tuple[str, ...] = ()


def count_errors(dice: random.Random) -> Job:
    """Count lines over several files."""
    levels = {
        name: dice.choices(("INFO", "ERROR", "WARN"), k=dice.randint(8, 20)) for name in ("web", *dice.sample(NAMES[1:], 2))
    }
    files = {
        f"logs/{name}.log": "".join(f"{number:04d} {level} something happened\n" for number, level in enumerate(found))
        for name, found in levels.items()
    }
    errors = sum(level == "ERROR" for found in levels.values() for level in found)
    return Job(
        ask="How many lines in all files of the folder logs hold the word ERROR? Write the number, alone, to report.txt.",
        files=files,
        expected={"report.txt": str(errors)},
        gold="cat logs/*.log | grep -c ERROR > report.txt; true",
    )


def rename_files(dice: random.Random) -> Job:
    """Change the ending of every file of a kind."""
    texts = {name: dice.choice(WORDS) for name in dice.sample(NAMES, 4)}
    other = dice.choice(WORDS)
    return Job(
        ask="In the folder notes, rename every file that ends in .txt so that it ends in .md. Leave the others alone.",
        files={**{f"notes/{name}.txt": f"{word}\n" for name, word in texts.items()}, "notes/data.csv": other},
        expected={**{f"notes/{name}.md": word for name, word in texts.items()}, "notes/data.csv": other},
        absent=tuple(f"notes/{name}.txt" for name in texts),
        gold='for file in notes/*.txt; do mv "$file" "${file%.txt}.md"; done',
    )


def sort_words(dice: random.Random) -> Job:
    """Sort and drop what comes twice."""
    words = dice.choices(WORDS, k=15)
    return Job(
        ask="words.txt holds one word a line. Write each different word once, in alphabetical order, to sorted.txt.",
        files={"words.txt": "\n".join(words) + "\n"},
        expected={"sorted.txt": "\n".join(sorted(set(words)))},
        gold="LC_ALL=C sort -u words.txt > sorted.txt",
    )


def replace_setting(dice: random.Random) -> Job:
    """Change one line of a file and nothing else."""
    ports = {name: dice.randint(1000, 9999) for name in dice.sample(NAMES, 4)}
    chosen, port = dice.choice(list(ports)), dice.randint(10000, 60000)
    lines = {name: f"{name}_port = {number}\n" for name, number in ports.items()}
    return Job(
        ask=f"In settings.ini, change {chosen}_port to {port}. Change nothing else.",
        files={"settings.ini": "".join(lines.values())},
        expected={"settings.ini": "".join({**lines, chosen: f"{chosen}_port = {port}\n"}.values())},
        gold=f"sed -i 's/^{chosen}_port = .*/{chosen}_port = {port}/' settings.ini",
    )


def sum_script(dice: random.Random) -> Job:
    """Write a script that works on input that is not there yet."""
    drawn = [[dice.randint(1, 500) for _ in range(dice.randint(2, 6))] for _ in range(2)]
    return Job(
        ask="Write a bash script total.sh that prints the sum of the whole numbers it is given as arguments. "
        "For example, `bash total.sh 1 2 3` prints 6.",
        prints={f"bash total.sh {' '.join(map(str, numbers))}": str(sum(numbers)) for numbers in drawn},
        gold="cat > total.sh <<'END'\ntotal=0\nfor number in \"$@\"; do total=$((total + number)); done\necho $total\nEND",
    )


def largest_file(dice: random.Random) -> Job:
    """Find a file by its size, somewhere below a folder."""
    sizes = dice.sample(range(50, 2000), 6)
    paths = [f"data/{dice.choice(WORDS)}/{name}.bin" for name in dice.sample(NAMES, 6)]
    return Job(
        ask="Which file below the folder data is the largest? Write its path, such as data/x/y.bin, to answer.txt.",
        files={path: "x" * size for path, size in zip(paths, sizes, strict=True)},
        expected={"answer.txt": paths[sizes.index(max(sizes))]},
        gold="find data -type f -printf '%s %p\\n' | sort -n | tail -1 | cut -d' ' -f2 > answer.txt",
    )


def sum_column(dice: random.Random) -> Job:
    """Add up a column where another one has a value."""
    rows = [(dice.choice(("north", "south")), dice.randint(1, 99)) for _ in range(12)]
    chosen = dice.choice(("north", "south"))
    return Job(
        ask=f"sales.csv has the columns region and amount. Write the sum of the amounts of the region {chosen} to sum.txt.",
        files={"sales.csv": "region,amount\n" + "".join(f"{region},{amount}\n" for region, amount in rows)},
        expected={"sum.txt": str(sum(amount for region, amount in rows if region == chosen))},
        gold=f"awk -F, '$1 == \"{chosen}\" {{ sum += $2 }} END {{ print sum + 0 }}' sales.csv > sum.txt",
    )


def last_lines(dice: random.Random) -> Job:
    """Write a script that works on a file that is not there yet."""
    lines = [dice.choice(WORDS) for _ in range(dice.randint(5, 9))]
    number = dice.randint(2, 4)
    command = "printf '%s\\n' " + " ".join(lines) + " > /tmp/input.txt; bash tail.sh /tmp/input.txt"
    return Job(
        ask=f"Write a bash script tail.sh that prints the last {number} lines of the file that it is given, last one first.",
        prints={command: "\n".join(reversed(lines[-number:]))},
        gold=f"echo 'tail -n {number} \"$1\" | tac' > tail.sh",
    )


def clean_up(dice: random.Random) -> Job:
    """Delete what is of a kind, keep the rest."""
    kept = {f"src/{name}.c": dice.choice(WORDS) for name in dice.sample(NAMES, 3)}
    waste = {f"src/{name}.o": "x" for name in dice.sample(NAMES, 3)} | {"build/out.o": "x"}
    return Job(
        ask="Delete every file that ends in .o, in this folder and all folders below it. Keep everything else.",
        files={**kept, **waste},
        expected=kept,
        absent=tuple(waste),
        gold="find . -name '*.o' -delete",
    )


JOBS: Mapping[str, Callable[[random.Random], Job]] = {
    job.__name__: job for job in (count_errors, rename_files, sort_words, replace_setting, sum_script, largest_file)
}
HELD_OUT_JOBS: Mapping[str, Callable[[random.Random], Job]] = {job.__name__: job for job in (sum_column, last_lines, clean_up)}
