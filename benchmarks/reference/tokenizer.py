"""The model's own byte-pair encoding: CLIP's form, trained on the grammar's captions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.reference.grammar import scenes
from edgediff import clip_bpe
from edgediff.clip_bpe import END, START

VOCABULARY = 768


def train(captions: int = 20000) -> Any:
    """Return a ``tokenizers.Tokenizer`` with CLIP's normalisation, split and end-of-word mark."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    made = Tokenizer(models.BPE(unk_token=END, end_of_word_suffix="</w>"))
    clip_bpe.dress(made)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        special_tokens=[START, END, *(letter + "</w>" for letter in sorted(alphabet))],
        show_progress=False,
    )
    made.train_from_iterator((scene.caption for scene in scenes(0, captions)), trainer)
    # Letters that end a word were special only to be in the vocabulary; in the file they are ordinary
    # entries.
    content = json.loads(made.to_str())
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] in (START, END)]
    made = Tokenizer.from_str(json.dumps(content))
    start, end = made.token_to_id(START), made.token_to_id(END)
    made.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, start), (END, end)]
    )
    return made


def kept(path: Path) -> Any:
    """Return the tokenizer of a file, trained first where there is none."""
    from tokenizers import Tokenizer

    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        train().save(str(part))
        part.replace(path)
    return Tokenizer.from_file(str(path))


def save(tokenizer: Any, folder: Path, length: int) -> None:
    """Write tokenizer.json, vocab.json, merges.txt and their configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    model = json.loads(tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    config = {
        **special,
        "model_max_length": length,
        "tokenizer_class": "CLIPTokenizer",
        "do_lower_case": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def encode(tokenizer: Any, captions: list[str], length: int) -> list[list[int]]:
    """Return padded rows of ids: start, caption, end, then end again to ``length``."""
    end = tokenizer.token_to_id(END)
    rows = []
    for ids in tokenizer.encode_batch(captions):
        row = ids.ids[:length]
        row[-1] = end
        rows.append(row + [end] * (length - len(row)))
    return rows
