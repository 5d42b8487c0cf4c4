"""A byte-level BPE of 96 entries, written out by hand so that no library version can change it."""

import json
import string

MERGES = [
    "Ġ t", "Ġ a", "h e", "Ġt he", "i n", "r e", "Ġ w", "n d", "Ġa nd", "e r", "o n", "Ġ s", "o u", "Ġ b", "Ġ o",
    "a t", "e d", "Ġ h", "i s", "Ġ c", "l l", "Ġ f", "Ġ d", "Ġ m", "in g", "Ġt o", "Ã ©", "l e", "o w", "e n",
    "a s", "Ġw as",
]  # fmt: skip
# The bytes of "é", "ü", "€" and "😀", so that a character can be spread over several tokens.
MULTIBYTE = "éü€😀".encode()
VOCAB_SIZE = 96
SPECIALS = {"llama": ["<unk>", "<s>", "</s>"], "neox": ["<|endoftext|>", "<|padding|>", "<|sep|>"]}


def byte_char(byte):
    """GPT-2's printable stand-in for a byte."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    if byte in plain:
        return chr(byte)
    return chr(256 + [b for b in range(256) if b not in plain].index(byte))


def vocabulary(style):
    text = " \n" + string.ascii_lowercase + "ABHIOT" + string.digits + ".,!?'\"-"
    pieces = [*SPECIALS[style], *map(byte_char, text.encode())]
    pieces += [byte_char(b) for b in dict.fromkeys(MULTIBYTE)]
    pieces += [m.replace(" ", "") for m in MERGES]
    assert len(pieces) == len(set(pieces)) == VOCAB_SIZE, len(pieces)
    return pieces


def tokenizer_json(style):
    """llama: every text begins with <s>. neox: nothing is added. Bytes without an entry become id 0."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    begin = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    template = {
        "type": "TemplateProcessing",
        "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [begin, {"Sequence": {"id": "A", "type_id": 0}}, begin, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    pieces = vocabulary(style)
    whole = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": piece, **flags} for i, piece in enumerate(SPECIALS[style])],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": template if style == "llama" else {**byte_level, "trim_offsets": False},
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": SPECIALS[style][0],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {piece: i for i, piece in enumerate(pieces)},
            "merges": MERGES,
        },
    }
    return json.dumps(whole, ensure_ascii=False, separators=(",", ":")) + "\n"


def tokenizer_config(style):
    names = SPECIALS[style]
    bos, eos = (names[1], names[2]) if style == "llama" else (names[0], names[0])
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": eos, "unk_token": names[0]}
    return json.dumps(config) + "\n"
