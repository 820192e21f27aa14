"""Programs of the held-out split: what was learned of the others by heart is worth nothing here."""

from environments.swe.programs import program

CALENDAR = program(
    "days",
    '''
"""Days of the common calendar."""

def is_leap(year):
    """Whether a year has 366 days."""
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)

def days_in(month, year=2001):
    """How many days a month has."""
    if month == 2:
        return 29 if is_leap(year) else 28
    if month in (4, 6, 9, 11):
        return 30
    return 31

def day_of_year(day, month, year=2001):
    """The number of a day in its year, from 1."""
    return sum(days_in(before, year) for before in range(1, month)) + day

def is_date(day, month, year):
    """Whether there is such a day."""
    if month < 1 or month > 12:
        return False
    return 1 <= day <= days_in(month, year)
''',
    """
is_leap(2024)
is_leap(1900)
days_in(2)
days_in(4)
day_of_year(1, 1)
day_of_year(1, 3, 2024)
is_date(30, 4, 2023)
is_date(31, 4, 2023)
is_leap(2000)
is_leap(2023)
days_in(2, 2000)
days_in(12)
days_in(11)
day_of_year(31, 12)
day_of_year(31, 12, 2020)
is_date(1, 13, 2023)
is_date(1, 0, 2023)
is_date(0, 5, 2023)
is_date(29, 2, 2024)
is_date(31, 12, 1999)
""",
)

TEXTS = program(
    "texts",
    '''
"""Laying out text."""

def wrap(words, width=20):
    """Lines of at most `width` characters, as many words in each as fit; a longer word has a line of its own."""
    lines = []
    for word in words:
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] = lines[-1] + " " + word
        else:
            lines.append(word)
    return lines

def shorten(text, width=10):
    """The text, or its beginning and three dots where it is longer than `width`."""
    if len(text) <= width:
        return text
    return text[:width - 3] + "..."

def initials(name, dots=True):
    """The first letters of the parts of a name, in capitals."""
    letters = [part[0].upper() for part in name.split()]
    if dots:
        return "".join(letter + "." for letter in letters)
    return "".join(letters)
''',
    """
wrap(["aaaa", "bbbb", "cc"], 9)
wrap(["one", "two", "three", "four", "five", "six"])
shorten("abcdefghij")
shorten("abcdefghijk")
initials("ada lovelace")
initials("ada lovelace", dots=False)
wrap([])
wrap(["abcdefghijkl", "x"], 5)
wrap(["ab", "cd", "ef"], 5)
wrap(["sixteen letters!", "abc", "abcd"])
shorten("")
shorten("hello world", 8)
shorten("hello", 5)
initials("")
initials("x y z")
""",
)

SCORES = program(
    "scores",
    '''
"""Points of a league, from results (home, away, goals of home, goals of away)."""

def points(scored, conceded, win=3):
    """Points of one match: `win` for a win, 1 for a draw."""
    if scored > conceded:
        return win
    if scored == conceded:
        return 1
    return 0

def table(results, win=3):
    """Teams with their points, best first; equal points by name."""
    sums = {}
    for home, away, goals, against in results:
        sums[home] = sums.get(home, 0) + points(goals, against, win)
        sums[away] = sums.get(away, 0) + points(against, goals, win)
    return sorted(sums.items(), key=lambda entry: (-entry[1], entry[0]))

def difference(results, team):
    """Goals that a team scored less those that it conceded."""
    found = 0
    for home, away, goals, against in results:
        if team == home:
            found += goals - against
        elif team == away:
            found += against - goals
    return found
''',
    """
points(2, 1)
points(1, 1)
points(0, 1)
table([("a", "b", 1, 0), ("b", "c", 2, 2)])
difference([("a", "b", 3, 1), ("c", "a", 0, 2)], "a")
points(3, 0, 2)
points(0, 0, 2)
table([])
table([("x", "y", 0, 4), ("y", "x", 1, 1)], 2)
table([("p", "q", 1, 1), ("r", "q", 5, 0), ("p", "r", 2, 0)])
difference([("a", "b", 3, 1)], "b")
difference([("a", "b", 3, 1), ("b", "c", 2, 0)], "b")
difference([("a", "b", 3, 1)], "z")
""",
)

HELD_OUT = (CALENDAR, TEXTS, SCORES)
