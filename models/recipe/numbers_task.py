"""A generated task whose answer its source decides: numbers and dates written out in words.

    Write in words: 4731
    ---
    Words: four thousand seven hundred thirty-one
"""

import datetime
import hashlib
import random

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    " sixteen seventeen eighteen nineteen"
).split()
TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()
MONTHS = (
    "January February March April May June July August September October November December"
).split()
IRREGULAR_ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth",
    "eight": "eighth", "nine": "ninth", "twelve": "twelfth",
}  # fmt: skip

HELD_OUT = 0.10  # share of the sources, by their hash
PER_LENGTH = 6000  # numbers of each length from 4 to 6 digits
DATES = 10000


def cardinal(n):
    """English words of 0 <= n < 1,000,000."""
    if n < 20:
        return ONES[n]
    if n < 100:
        return TENS[n // 10] + (f"-{ONES[n % 10]}" if n % 10 else "")
    size, name = (100, "hundred") if n < 1000 else (1000, "thousand")
    return f"{cardinal(n // size)} {name}" + (f" {cardinal(n % size)}" if n % size else "")


def ordinal(n):
    """English words of 1 <= n < 100, as a rank."""
    head, dash, last = cardinal(n).rpartition("-")
    if last in IRREGULAR_ORDINALS:
        last = IRREGULAR_ORDINALS[last]
    else:
        last = (last[:-1] + "ie" if last.endswith("y") else last) + "th"
    return head + dash + last


def target(source):
    """The one right answer for a number ("4731") or a date ("1998-03-21")."""
    if "-" not in source:
        return cardinal(int(source))
    date = datetime.date.fromisoformat(source)
    return f"{MONTHS[date.month - 1]} {ordinal(date.day)}, {cardinal(date.year)}"


def prompt(source):
    return f"Write in words: {source}\n---\nWords:"


def document(source, answer):
    return f"{prompt(source)} {answer}"


def is_held_out(source):
    digest = hashlib.sha256(source.encode()).hexdigest()
    return int(digest[:12], 16) / 16**12 < HELD_OUT


def sources():
    """All numbers below 1,000, a sample of longer ones, and a sample of dates; always the same."""
    rng = random.Random("numbers task")
    chosen = [str(n) for n in range(1000)]
    for digits in (4, 5, 6):
        chosen += map(str, rng.sample(range(10 ** (digits - 1), 10**digits), PER_LENGTH))
    first, last = datetime.date(1000, 1, 1).toordinal(), datetime.date(2099, 12, 31).toordinal()
    chosen += [datetime.date.fromordinal(d).isoformat() for d in rng.sample(range(first, last + 1), DATES)]
    return chosen


def examples(held_out):
    """(source, target) pairs of one side of the split."""
    return [(source, target(source)) for source in sources() if is_held_out(source) == held_out]


if __name__ == "__main__":
    for source in ("0", "13", "40", "100", "4731", "20015", "999999", "1998-03-21", "2024-02-12"):
        print(document(source, target(source)))
