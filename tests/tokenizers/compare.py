"""Compares token ids and texts with the Python package `tokenizers`, which runs split patterns on Oniguruma.

    pip install tokenizers==0.23.3
    cargo build --example tokens
    python tests/tokenizers/compare.py target/debug/examples/tokens [--strings 2000] [--patterns 400] [--seed 0]

For each family of tokenizers there is one of our own making here: its normalizer, pre-tokenizer and decoder, with a small
vocabulary trained on a text made up for it. Random strings are turned into ids by both, and random ids into text, whole and piece by
piece. Then come random patterns of the constructs that `src/format/oniguruma.rs` knows: each is refused there, or splits
random strings as Oniguruma does. Ends with 1 at the first family that differs.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r"\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}"
LOWER = r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
LLAMA3 = rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{REST}"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]*[{LOWER}]+{CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]+[{LOWER}]*{CONTRACTIONS}?|"
    rf"\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{REST}"
)
TEKKEN = O200K.replace(f"{CONTRACTIONS}?", "").replace(r"\p{N}{1,3}", r"\p{N}")
KIMI = (
    rf"[\p{{Han}}]+|[^\r\n\p{{L}}\p{{N}}]?[{UPPER}&&[^\p{{Han}}]]*[{LOWER}&&[^\p{{Han}}]]+{CONTRACTIONS}?|"
    rf"[^\r\n\p{{L}}\p{{N}}]?[{UPPER}&&[^\p{{Han}}]]+[{LOWER}&&[^\p{{Han}}]]*{CONTRACTIONS}?|"
    rf"\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{REST}"
)
DEEPSEEK3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|" + REST
)
# The first of the ranges that are listed there.
LETTERS = "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-Ⴥ"

# Byte-level families: what splits the text before its bytes are looked at. A name alone is GPT-2's own pattern.
BYTE_LEVEL = {
    "GPT-2, SmolLM2, Pythia, MPT, OPT": [None],
    "StarCoder, SmolLM, Granite: digits first": ["digits", None],
    "Command R: digits, NFC": ["digits", None, "NFC"],
    "Falcon": ["punctuation", None, "digits all", r"[0-9][0-9][0-9]"],
    "Llama 3": [LLAMA3],
    "Qwen 2, 2.5 and 3": [QWEN2, "NFC"],
    "Qwen 3.5": [LLAMA3.replace(r"\p{L}+", r"[\p{L}\p{M}]+").replace(r"\s\p{L}", r"\s\p{L}\p{M}").replace("{1,3}", ""), "NFC"],
    "GPT-4, DBRX, OLMo 2, Phi-4, StableLM 2": [CL100K],
    "Bailing, Ling": [CL100K.replace(r"\p{N}{1,3}", r"\p{N}")],
    "GPT-4o, gpt-oss, Llama 4": [O200K],
    "Mistral Nemo (Tekken), Ministral": [TEKKEN],
    "Kimi K2": [KIMI],
    "GLM 4, ChatGLM 4": [LLAMA3],
    "Hunyuan": [LLAMA3, r"\p{N}"],
    "DeepSeek LLM": [r"[\r\n]", rf"\s?[{LETTERS}]+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", r"[一-龥ࠀ-一가-퟿]+", "digits"],
    "DeepSeek Coder": [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", "digits"],
    "DeepSeek V3, R1": [r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3],
    "BLOOM": [r" ?[^(\s|[.,!?…。，、।۔،])]+"],
    "Viking, Poro": [r" ?[^(\s|.,!?…。，、।۔،)]+", r"\p{N}"],
    "EXAONE": [r"[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"],
    "SuperBPE": [r"\p{N}+", r"(?=(\d{3})+(?!\d))"],
    "Digits by threes from the right": [r"\A\p{Nd}{1,2}(?=\p{Nd}{3}+\z)", r"\A\p{Nd}{3}|\G\p{Nd}{3}", LLAMA3],
    "AFMoE": [r"\p{N}+", r"(?<=\A\d{1,2})(?=(?:\d{3})+\z)", O200K],
    "Youtu": [r"[가-힣ㄱ-ㆎ]+|[!…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+", TEKKEN],
    "Seed-OSS, MiniMax": [CL100K.replace("'(?i:", "(?i:'").replace("[sdmt]|ll|ve|re", "s|'d|'m|'t|'ll|'ve|'re")],
    "XVERSE, Refact: a line at a time": [r"^[^\n]*$|\n+"],
    "Jais, Codestral Mamba: words by their limits": [r"\b\w+\b|[[:punct:]]+|[[:space:]]+"],
    "Grok 2": [rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{REST}", "prefix"],
}

# Characters that patterns tell apart, and others that look alike.
ALPHABET = (
    list("aAbBeEiIkKlLmMrRsStTvVdDzZ0123456789½²Ⅷ٣  \t\n\r\x0b\x0c\x85\xa0\u2003\u2028\u3000'’\"!?.,;:-_/\\|()[]{}<>@#$%^&*+=~`")
    + list("éÉßſÅǅəñøИйЖἈאباकि一中龥ひカ한ㄱก𝒜😀👍🏽\u0301\u0307\u200c\u200d\u00ad\ufeff\u0345€→‖…。，、।İı")
    + ["'s", "'LL", "'re", "\r\n", "\n\n", "  ", "   ", "12", "345", "the", "The", "HTTP", "don't", "</s>", "<s>"]
)


def strings(rng, count):
    for _ in range(count):
        yield "".join(rng.choice(ALPHABET) if rng.random() < 0.97 else chr(rng.choice([rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)])) for _ in range(rng.randrange(1, 40)))


def trained(tokenizer, trainer, rng):
    words = ["the", " the", "The", " and", "'s", " 12", "345", "ing", "中国", "ひらがな", "한국", "é", "\n\n", "    ", "...", "!!", "abc"]
    texts = ["".join(rng.choice(words + ALPHABET[:60]) for _ in range(60)) for _ in range(200)]
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def added():
    return [
        AddedToken("đem", normalized=False),
        AddedToken("Öl", normalized=False),
        AddedToken("<|im_end|>", special=True, normalized=False),
        AddedToken(" spaced ", normalized=False),
        AddedToken("<0x41>", normalized=False),
    ]


def byte_level(steps, rng):
    tokenizer = Tokenizer(models.BPE(byte_fallback=False))
    splits, has_own, prefix = [], False, "prefix" in steps
    for step in steps:
        if step is None:
            splits.append(pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=True))
            has_own = True
        elif step == "digits":
            splits.append(pre_tokenizers.Digits(individual_digits=True))
        elif step == "digits all":
            splits.append(pre_tokenizers.Digits(individual_digits=False))
        elif step == "punctuation":
            splits.append(pre_tokenizers.Punctuation("contiguous"))
        elif step == "NFC":
            tokenizer.normalizer = normalizers.NFC()
        elif step != "prefix":
            splits.append(pre_tokenizers.Split(Regex(step), "isolated"))
    if not has_own:
        splits.append(pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained(tokenizer, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, special_tokens=special, show_progress=False), rng)
    tokenizer.add_tokens(added())
    return tokenizer


def sentencepiece(kind, rng):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if kind == "Llama 2, TinyLlama, Mistral 7B":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    elif kind == "Gemma":
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    elif kind == "Phi-3, Yi: Metaspace":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Replace(Regex(r"[\r\n]+|\h{6}"), " "), normalizers.Replace(" ", "▁")])
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    trained(tokenizer, trainers.BpeTrainer(vocab_size=600, special_tokens=special, show_progress=False), rng)
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if kind != "Gemma":
        parts.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first") if "Metaspace" in kind else decoders.Sequence(parts)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    # What the trainer needed as special tokens is none: bytes are text.
    made = json.loads(tokenizer.to_str())
    made["added_tokens"] = [token for token in made["added_tokens"] if not token["content"].startswith("<0x")]
    made = Tokenizer.from_str(json.dumps(made))
    made.add_tokens([token for token in added() if token.content != "<0x41>"])
    return made


SENTENCEPIECE = ["Llama 2, TinyLlama, Mistral 7B", "Gemma", "Phi-3, Yi: Metaspace", "A normalizer with a pattern"]


def ours(program, path, lines):
    run = subprocess.run([program, path], input="".join(json.dumps(line) + "\n" for line in lines), capture_output=True, encoding="utf-8")
    if run.returncode != 0:
        return None, run.stderr.strip()
    return [json.loads(line) for line in run.stdout.split("\n") if line], None


def decoded(tokenizer, ids, skip):
    """What `decode` gives, but with added tokens as their own text, where a byte-level decoder takes their letters for bytes."""
    if not isinstance(tokenizer.decoder, decoders.ByteLevel):
        return tokenizer.decode(ids, skip_special_tokens=skip)
    letters = {letter: byte for byte, letter in byte_letters().items()}
    own = {id: token for id, token in tokenizer.get_added_tokens_decoder().items()}
    data = b""
    for id in ids:
        if id in own:
            data += b"" if skip and own[id].special else own[id].content.encode()
        else:
            data += bytes(letters[letter] for letter in tokenizer.id_to_token(id))
    return data.decode("utf-8", "replace")


def byte_letters():
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(0x100 + at) for at, byte in enumerate(others)}


def compare(name, tokenizer, program, folder, rng, count):
    path = str(Path(folder) / "tokenizer.json")
    tokenizer.save(path)
    texts = list(strings(rng, count))
    size = tokenizer.get_vocab_size()
    runs = [[rng.randrange(size) for _ in range(rng.randrange(1, 60))] for _ in range(count // 4)]
    answers, error = ours(program, path, texts + runs)
    if error:
        return f"{name}: refused: {error}"
    for text, got in zip(texts, answers):
        want = tokenizer.encode(text).ids
        if got != want:
            return f"{name}: {text!r}: {got}, expected {want}"
    for ids, got in zip(runs, answers[count:]):
        want = [decoded(tokenizer, ids, skip) for skip in (True, False)]
        if got.get("text") != want or got.get("streamed") != want:
            return f"{name}: {ids}: {got}, expected {want}"
    return None


def random_pattern(rng, depth=0):
    sets = [r"\s", r"\S", r"\d", r"\w", r"\W", r"\h", r"\p{L}", r"\p{^N}", r"\P{Lu}", r"\p{Han}", ".", r"\p{Word}", r"\p{Punct}"]
    brackets = [
        "[a-zA-Z]", "[^a-z]", "[[:alpha:]]", "[^[:punct:]\\s]", "[\\w']", "[^\\w]", "[\\p{L}\\p{M}]", "[a-z&&[^ae]]", "[^\\s&&\\w]", "[-a]",
        "[a-]", "[\\-.]", "[a-c-]", "[\\x{4E00}-\\u9FA5]", "[[:^space:]\\n]", "[^(\\s|[.,])]", "[[:word:]]", "[\\r\\n]", "[{}]", "[\\b]",
    ]
    places = [r"\b", r"\B", "^", "$", r"\A", r"\z", r"\Z", r"(?!\S)", r"(?=\s)", r"\G", r"(?<=a)", r"(?<!\d)", r"(?<=[a-z])"]
    literals = ["a", "e", "s", "1", " ", "'", "é", "\\.", "\\/", "{", "}", "-", "#", "\\n", "\\t", "\\x41", "½"]
    parts = []
    for _ in range(rng.randrange(1, 4)):
        kind = rng.random()
        if kind < 0.2 and depth < 2:
            begin = rng.choice(["(?:", "(", "(?i:", "(?>", "(?=", "(?!", "(?m:", "(?<n>", "(?-i:", "(?i)(?:"])
            part = begin + random_pattern(rng, depth + 1) + ")"
        else:
            part = rng.choice(rng.choice([sets, brackets, literals, literals] + ([places] if kind > 0.85 else [])))
        if rng.random() < 0.45:
            part += rng.choice(["*", "+", "?", "*?", "+?", "??", "++", "*+", "?+", "{2}", "{1,2}", "{,2}", "{2,}", "{2}+", "{1,2}?", "{1,2}+", "{3}*", "+*"])
        parts.append(part)
    pattern = "".join(parts)
    if rng.random() < 0.3:
        pattern += "|" + random_pattern(rng, depth + 1)
    return pattern


def compare_patterns(program, folder, rng, count):
    used = refused = 0
    vocabulary = {letter: at for at, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    while used < count:
        pattern = random_pattern(rng)
        try:
            split = pre_tokenizers.Split(Regex(pattern), rng.choice(["isolated", "removed", "merged_with_previous", "merged_with_next", "contiguous"]))
        except Exception:
            continue
        # Pieces are told apart by what stands before each of them.
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)])
        path = str(Path(folder) / "pattern.json")
        tokenizer.save(path)
        texts = list(strings(rng, 60))
        answers, error = ours(program, path, texts)
        if error:
            if "regular expression" not in error:
                return f"{pattern}: {error}"
            refused += 1
            continue
        used += 1
        for text, got in zip(texts, answers):
            # An error is none of other ids.
            if "error" in got and "gave up" in got["error"]:
                continue
            try:
                want = tokenizer.encode(text).ids
            except BaseException as error:
                # Oniguruma has a limit of its own, at which the package panics.
                if "retry-limit" not in str(error):
                    raise
                continue
            if got != want:
                return f"the pattern {pattern!r} on {text!r}: {got}, expected {want}"
    print(f"{used} random patterns are the same, {refused} others were refused")
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("program")
    parser.add_argument("--strings", type=int, default=2000)
    parser.add_argument("--patterns", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        for name, steps in BYTE_LEVEL.items():
            wrong.append(compare(name, byte_level(steps, rng), args.program, folder, rng, args.strings))
        for name in SENTENCEPIECE:
            wrong.append(compare(name, sentencepiece(name, rng), args.program, folder, rng, args.strings))
        families = len(wrong)
        wrong.append(compare_patterns(args.program, folder, rng, args.patterns))
    wrong = [error for error in wrong if error]
    for error in wrong:
        print(f"WRONG: {error}")
    print(f"{families} families, {args.strings} strings each: {len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
