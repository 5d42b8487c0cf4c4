"""Texts of all that Unicode has, and what foretoken makes of them."""

import json
import subprocess
import sys

PIECES = [
    "👩‍👩‍👧‍👦", "👍🏽", "🏳️‍🌈", "🇪🇺", "1️⃣", "e\u0301", "a\u0308\u0323", "한국어", "ㄱㅏ", "中文字", "ひらがな", "カタカナ", "ｶﾀｶﾅ", "שלום", "مرحبا", "\u202eabc\u202c",
    "नमस्ते", "ไทย", "123", "4567890", "٣٤٥", "½", "²", "Ⅷ", "१२", " ", "  ", "   ", "    ", "\t", "\n", "\n\n", "\r\n", "\u00a0", "\u2003", "\u2028", "\u3000", "\u200b",
    "\x00", "\x07", "\x1b", "\x7f", "\x85", "\ufeff", "\ufffd", "\U0010ffff", "the", " the", "The", "don't", "I'LL", "we've", "HTTPServer", "foo_bar", "x=1;", "--", "...",
    "!!", "<", ">", "|", "▁", "▁▁", "Ġ", "Ċ", "<0x41>", "<s>", "</s>", "<bos>", "<|im_end|>", "<|endoftext|>", "[multimodal]", "İ", "ß", "ﬁ", "Å", "𝒜", "€", "→", "\u00ad",
]  # fmt: skip


def strings(rng, count):
    for _ in range(count):
        parts = []
        for _ in range(rng.randrange(1, 30)):
            kind = rng.random()
            if kind < 0.6:
                parts.append(rng.choice(PIECES))
            elif kind < 0.85:
                parts.append("".join(chr(rng.randrange(32, 127)) for _ in range(rng.randrange(1, 6))))
            else:
                top = rng.choice([0x300, 0x2000, 0xD800, 0x110000])
                code = rng.randrange(top)
                parts.append("\ufffe" if 0xD800 <= code < 0xE000 else chr(code))
        yield "".join(parts)


def ours(program, path, lines):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    run = subprocess.run([program, path], input=text, capture_output=True, encoding="utf-8")
    if run.returncode != 0:
        sys.exit(f"{path}: {run.stderr.strip()}")
    return [json.loads(line) for line in run.stdout.split("\n") if line]
