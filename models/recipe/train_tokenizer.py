"""Train the byte-level BPE tokenizer: 4,096 entries, digits one by one, no normaliser.

    python train_tokenizer.py --text ../../../shared/text --out run/tokenizer.json
"""

import argparse
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import data

VOCABULARY = 4096


def corpus(text):
    """Training documents only. Stories count twice: they are what the model mostly writes."""
    for _ in range(2):
        yield from data.training_stories(text)
    for german, english in data.translation_pairs(text)[0]:
        yield german
        yield english


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="folder of the corpora")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[data.EOT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(args.text), trainer)
    # A text starts as every training document does.
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{data.EOT} $A",
        pair=f"{data.EOT} $A {data.EOT} $B",
        special_tokens=[(data.EOT, tokenizer.token_to_id(data.EOT))],
    )
    assert tokenizer.get_vocab_size() == VOCABULARY

    args.out.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(args.out))


if __name__ == "__main__":
    main()
