"""The fast way of encoding against the direct one, and the special tokens around a pair."""

from __future__ import annotations

import copy
import json
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from qa_fast.encode import load_encoder
from qa_fast.encode.characters import BETWEEN, Characters
from qa_fast.encode.cuts import NotAllowedError, choose_rule
from qa_fast.encode.encoder import Way
from qa_fast.encode.library import encode_strings, open_tokenizer, same_tokens
from qa_fast.encode.wordpiece import WordPiece
from qa_fast.encode.words import WordEncoder
from qa_fast.errors import UserError
from qa_fast.kernels import wordpiece as wordpiece_kernels
from qa_fast.kernels import words as kernels
from tests.made_up import PIECES, texts
from tests.tokenizers_for_tests import CORPUS, KINDS, save_folder, small_tokenizer

ENCODERS: dict[str, tuple[Tokenizer, WordEncoder]] = {}


def words_of(tokenizer: Tokenizer) -> WordEncoder:
    settings = orjson.loads(tokenizer.to_str())
    return WordEncoder(choose_rule(settings), open_tokenizer(settings))


def both_ways(kind: str) -> tuple[Tokenizer, WordEncoder]:
    if kind not in ENCODERS:
        tokenizer = small_tokenizer(kind)
        ENCODERS[kind] = tokenizer, words_of(tokenizer)
    return ENCODERS[kind]


def assert_same(kind: str, strings: list[str]) -> None:
    tokenizer, words = both_ways(kind)
    fast, slow = words.encode(pa.array(strings, pa.string())), encode_strings(tokenizer, strings)
    for row, text in enumerate(strings):
        mine, theirs = (slice(e.offsets[row], e.offsets[row + 1]) for e in (fast, slow))
        assert fast.ids[mine].tolist() == slow.ids[theirs].tolist(), text
        assert fast.char_start[mine].tolist() == slow.char_start[theirs].tolist(), text
        assert fast.char_end[mine].tolist() == slow.char_end[theirs].tolist(), text


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=400)
@given(strings=st.lists(texts, max_size=5))
@example(strings=["", " ", "a", " a", "a ", "  a  b  ", "a\tb", "a \tb", "\x0b", "a\x1cb", "'", "'s", "a's ' s"])
@example(strings=["[SEP]", "a [SEP] b", "x[SEP]y", "<s>", "a <s>", "<s> a", "<mask>", "[sep]", "［SEP］"])
@example(strings=["x" * 100, "x" * 101, "x" * 120 + " y", "é" * 101])
def test_words_equal_direct(kind: str, strings: list[str]) -> None:
    assert_same(kind, strings)


@pytest.mark.parametrize("kind", KINDS)
def test_words_equal_direct_on_every_pair_of_pieces(kind: str) -> None:
    assert_same(kind, [left + right for left in PIECES for right in PIECES])


@pytest.mark.parametrize("kind", KINDS)
def test_words_equal_direct_on_every_ascii_pair(kind: str) -> None:
    chars = [chr(code) for code in range(128)]
    assert_same(kind, [f"ab{left}{right}cd" for left in chars for right in chars])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_the_tests_takes_the_fast_way(kind: str, tmp_path: Path) -> None:
    encoder = load_encoder(save_folder(small_tokenizer(kind), tmp_path), mode="words")
    tokenizer, _ = both_ways(kind)
    assert same_tokens(encoder.encode(pa.array(CORPUS)), encode_strings(tokenizer, CORPUS))


@pytest.mark.parametrize(("limit", "most"), [("_KNOWN_BYTES", 4000), ("_KNOWN_UNITS", 500)])
def test_the_set_of_units_grows_and_is_forgotten(monkeypatch: pytest.MonkeyPatch, limit: str, most: int) -> None:
    monkeypatch.setattr(f"qa_fast.encode.words.{limit}", most)
    tokenizer = small_tokenizer("wordpiece")
    words = words_of(tokenizer)
    for begin in range(0, 12_000, 3000):
        strings = [f"unit{n} is number {n * 7}" for n in range(begin, begin + 3000)]
        assert same_tokens(words.encode(pa.array(strings)), encode_strings(tokenizer, strings))
        assert words._known.count == 0
        # Nor do the threads' own sets bring back what was forgotten.
        words.encode(pa.array(["one word"]))
        assert words._known.count == 2
        assert all(scanner.units.count == 2 for scanner in words._free)
        words._forget()


def test_threads_share_an_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while what is known is forgotten again and again."""
    monkeypatch.setattr("qa_fast.encode.words._KNOWN_BYTES", 20_000)
    tokenizer = small_tokenizer("wordpiece")
    words = words_of(tokenizer)
    tables = [
        [f"word{n % 700} of é{n} and {n * 7}" for n in range(begin, begin + 400)] for begin in range(0, 9_600, 400)
    ]
    for _ in range(3):
        with ThreadPoolExecutor(4) as pool:
            encoded = list(pool.map(lambda strings: words.encode(pa.array(strings)), tables))
        for table, fast in zip(tables, encoded, strict=True):
            assert same_tokens(fast, encode_strings(tokenizer, table))


def test_an_interrupted_learning_leaves_nothing_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = small_tokenizer("wordpiece")
    words = words_of(tokenizer)
    words.encode(pa.array(CORPUS[:1]))
    with monkeypatch.context() as patch:
        patch.setattr(WordEncoder, "_encode_units", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            words.encode(pa.array(CORPUS))
    assert same_tokens(words.encode(pa.array(CORPUS)), encode_strings(tokenizer, CORPUS))


@pytest.mark.parametrize("size", [14, 15, 16, 17, 23, 24, 25, 40])
def test_words_around_the_size_of_a_key(size: int) -> None:
    """Long units are compared by their bytes, short ones by their keys; a text may end anywhere."""
    words = ["x" * size, "x" * (size - 1) + "y", "y" + "x" * (size - 1), "x" * (size - 1)]
    assert_same("wordpiece", [*words, " ".join(words), *(word + "é" for word in words), "é" * (size // 2)])


@pytest.mark.slow
@pytest.mark.parametrize(
    "normalizer",
    [
        {},
        {"lowercase": False, "strip_accents": None},
        {"strip_accents": False},
        {"clean_text": False, "handle_chinese_chars": False},
        None,
    ],
    ids=["uncased", "cased", "accents kept", "not cleaned", "no normaliser"],
)
def test_every_character_beside_letters_itself_and_a_combining_mark(normalizer: dict | None) -> None:
    """Compare the table of characters with the tokenizer.

    With BERT's own normaliser these are all characters of the first two planes, and every 17th of the others; with the
    other settings every 7th of the ideographs and of what follows them.
    """
    settings = orjson.loads(small_tokenizer("wordpiece").to_str())
    settings["normalizer"] = normalizer if normalizer is None else {**settings["normalizer"], **normalizer}
    tokenizer = Tokenizer.from_buffer(orjson.dumps(settings))
    words = words_of(tokenizer)
    codes = [*range(0xD800), *range(0xE000, 0x20000), *range(0x20000, 0x110000, 17)]
    if normalizer != {}:
        codes = [*range(0x3400), *[code for code in codes if code >= 0x3400][::7]]
    for begin in range(0, len(codes), 20_000):
        chars = map(chr, codes[begin : begin + 20_000])
        strings = [f"x{char}y {char}e\u0301{char} o{char}" for char in chars]
        assert same_tokens(words.encode(pa.array(strings)), encode_strings(tokenizer, strings))


def test_characters_that_depend_on_their_neighbours_are_left_to_the_tokenizer() -> None:
    """U+302E is a combining mark that decomposing orders and that no normaliser drops."""
    _, words = both_ways("wordpiece")
    assert_same("wordpiece", ["a\u302e\u0301b", "\u302e", "e\u0301\u302e"])
    assert isinstance(words._splitter, WordPiece)
    assert words._splitter.characters.table.entries[0x302E] == wordpiece_kernels.LEFT


def assert_settings_are_exact(settings: dict, strings: list[str]) -> None:
    tokenizer = Tokenizer.from_buffer(orjson.dumps(settings))
    words = words_of(tokenizer)
    assert same_tokens(words.encode(pa.array(strings)), encode_strings(tokenizer, strings))


@pytest.mark.parametrize("replacement", ["▁", "Ġ", "_", "#"])
@pytest.mark.parametrize("scheme", ["always", "first", "never", None])
@pytest.mark.parametrize("parted", [False, True])
def test_other_replacements_of_metaspace(replacement: str, scheme: str | None, parted: bool) -> None:
    settings = orjson.loads(small_tokenizer("unigram").to_str())
    metaspace = settings["pre_tokenizer"]
    metaspace.update(replacement=replacement, prepend_scheme=scheme)
    if scheme is None:  # as older files have it
        metaspace.update(str_rep=replacement, add_prefix_space=True)
        del metaspace["prepend_scheme"], metaspace["split"]
    if parted:
        settings["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]}
    for entry in settings["model"]["vocab"]:
        entry[0] = entry[0].replace("▁", replacement)
    settings["model"]["vocab"].append(["a" + replacement + "b", -1.0])
    assert_settings_are_exact(settings, ["the bell", f"{replacement}the bell", f"the a{replacement}b", " the", *CORPUS])


def test_runs_of_spaces_may_become_one_space_only() -> None:
    settings = orjson.loads(small_tokenizer("unigram").to_str())
    settings["normalizer"]["normalizers"][-1]["content"] = ""
    with pytest.raises(NotAllowedError, match="its normaliser replaces"):
        choose_rule(settings)


@pytest.mark.parametrize("pre", [False, True])
@pytest.mark.parametrize("post", [False, True])
@pytest.mark.parametrize("trims", [False, True])
@pytest.mark.parametrize("as_strings", [False, True])
def test_byte_level_settings_that_disagree(pre: bool, post: bool, trims: bool, as_strings: bool) -> None:
    """RobertaProcessing adds a prefix space by default where the pre-tokenizer may not."""
    settings = orjson.loads(small_tokenizer("byte-level").to_str())
    settings["pre_tokenizer"]["add_prefix_space"] = pre
    settings["post_processor"].update(add_prefix_space=post, trim_offsets=trims)
    if as_strings:  # as older files have them
        settings["model"]["merges"] = ["#version: 0.2", *(" ".join(merge) for merge in settings["model"]["merges"])]
    strings = ["Der Leuchtturm steht südlich der Mühle", " südlich", "é è  ê", "a  b", "'s süd", *CORPUS]
    assert_settings_are_exact(settings, strings)


@pytest.mark.parametrize("token", ["Ġabc", "##Ġ", "abc ", "\u00a0abc"])
def test_a_wordpiece_whose_post_processor_trims_as_byte_level_ones_do(token: str) -> None:
    """It would take a word's Ġ for a space, in a vocabulary that has one; MPNet's has none."""
    settings = orjson.loads(small_tokenizer("mpnet").to_str())
    choose_rule(settings)
    settings["model"]["vocab"][token] = len(settings["model"]["vocab"])
    with pytest.raises(NotAllowedError, match="its post-processor takes the ends of some tokens for spaces"):
        choose_rule(settings)


def test_characters_that_a_normal_form_makes_ascii_s_of() -> None:
    """On which it rests that an added token of other ASCII characters is found in the text as it is given."""
    others = (chr(code) for code in range(128, sys.maxunicode + 1))
    made = {char: unicodedata.normalize("NFC", char) for char in others}
    assert {char: form for char, form in made.items() if any(map(str.isascii, form))} == {
        "\u037e": ";",
        "\u1fef": "`",
        "\u212a": "K",
    }


def test_few_triggers_stand_for_many_added_tokens() -> None:
    """Parts of them are enough: the shortest run of spaces, and numbered tokens without their number."""
    triggers = choose_rule(orjson.loads(small_tokenizer("modernbert").to_str())).triggers
    special = {"<|endoftext|>", "[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"}
    assert set(triggers) == special | {"|||IP_ADDRESS|||", "  ", "[unused"}


def test_an_added_token_that_its_characters_twins_may_spell() -> None:
    tokenizer = small_tokenizer("modernbert")
    tokenizer.add_tokens([AddedToken("|KEY;|", normalized=True)])
    settings = orjson.loads(tokenizer.to_str())
    assert "EY" in choose_rule(settings).triggers
    assert_settings_are_exact(settings, ["a |KEY;| b", "a |\u212aEY\u037e| b", "|key;|", "EY a"])


def test_a_text_that_starts_with_what_its_normaliser_drops() -> None:
    """The Rust library then counts offsets without it; so do we."""
    for kind in ("xlm-roberta", "albert", "deberta"):
        assert_same(kind, ["\x07Ane Skou paid", "Ane \x07Skou paid", "\x7f\x07 Ane\x07 Skou"])
    assert "\x07" in choose_rule(orjson.loads(small_tokenizer("albert").to_str())).triggers


@pytest.mark.parametrize("kind", KINDS)
def test_a_kernel_splits_the_plain_units_of_every_kind(kind: str) -> None:
    _, words = both_ways(kind)
    assert words._splitter is not None
    text = np.frombuffer(b" harbour", np.uint8)
    begin = np.array([words.rule.drop_space], np.int64)
    done, encoded = words._splitter.encode(text, begin, np.array([len(text)], np.int64))
    assert done.all()
    assert len(encoded.ids) > 0


def test_one_long_text() -> None:
    assert_same("wordpiece", [" ".join(f"w{n}" for n in range(40_000))])


def test_added_tokens_of_the_user_are_seen() -> None:
    for normalized in (False, True):
        tokenizer = small_tokenizer("wordpiece")
        tokenizer.add_tokens(
            [AddedToken("[Ship Name]", normalized=normalized), AddedToken("<y>", lstrip=True, rstrip=True)]
        )
        words = words_of(tokenizer)
        strings = [
            "the [Ship Name] came",
            "the [ship name] came",
            "a <y> b",
            "a<y>b",
            "<y> b",
            "a <y>",
            "<y>",
            "no token",
            "［Ship Name］",
            "[ship",
        ]
        assert same_tokens(words.encode(pa.array(strings)), encode_strings(tokenizer, strings))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s["pre_tokenizer"].update(type="Whitespace"), "pre-tokenizer Whitespace is not on the list"),
        (lambda s: s.update(pre_tokenizer=None), "pre-tokenizer none is not on the list"),
        (lambda s: s["normalizer"].update(type="Prepend"), "normaliser Prepend is not on the list"),
        (lambda s: s["model"].update(dropout=0.1), "drops merges at random"),
        (
            lambda s: s["added_tokens"].append({"content": "ship", "normalized": True}),
            "added token 'ship' is looked for after normalisation",
        ),
    ],
)
def test_other_pipelines_take_the_direct_way(change, reason: str) -> None:
    settings = orjson.loads(small_tokenizer("wordpiece").to_str())
    change(settings)
    with pytest.raises(NotAllowedError, match=reason):
        choose_rule(settings)


@pytest.mark.parametrize(
    ("kind", "change", "reason"),
    [
        ("unigram", lambda s: s["pre_tokenizer"].update(split=False), "Metaspace does not split"),
        ("byte-level", lambda s: s["pre_tokenizer"].update(use_regex=False), "does not split by GPT-2's pattern"),
        (
            "unigram",
            lambda s: s["normalizer"]["normalizers"].append(
                {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}
            ),
            "its normaliser replaces",
        ),
        ("albert", lambda s: s["normalizer"]["normalizers"][0].update(content=" "), "its normaliser replaces"),
        ("albert", lambda s: s["normalizer"]["normalizers"][0].update(content=""), "its normaliser replaces"),
        (
            "deberta",  # split_by_punct
            lambda s: s["pre_tokenizer"]["pretokenizers"].insert(0, {"type": "Punctuation", "behavior": "Isolated"}),
            r"pre-tokenizer Punctuation \+ Metaspace is not on the list",
        ),
        (
            "modernbert",
            lambda s: s["added_tokens"].append({"content": "é", "normalized": True}),
            "added token 'é' is looked for after normalisation",
        ),
    ],
)
def test_other_settings_of_a_kind_take_the_direct_way(kind: str, change, reason: str) -> None:
    settings = orjson.loads(small_tokenizer(kind).to_str())
    change(settings)
    with pytest.raises(NotAllowedError, match=reason):
        choose_rule(settings)


def test_the_direct_way_is_said_and_equal(tmp_path: Path) -> None:
    tokenizer = small_tokenizer("unigram")
    settings = orjson.loads(tokenizer.to_str())
    settings["pre_tokenizer"]["split"] = False
    tokenizer = Tokenizer.from_buffer(orjson.dumps(settings))
    said: list[str] = []
    encoder = load_encoder(save_folder(tokenizer, tmp_path), say=said.append)
    assert said == ["encoding text by text: its Metaspace does not split"]
    assert same_tokens(encoder.encode(pa.array(CORPUS)), encode_strings(tokenizer, CORPUS))
    with pytest.raises(UserError, match="--encode words needs a tokenizer whose words can be encoded apart"):
        load_encoder(tmp_path, mode="words")
    with pytest.raises(UserError, match="--encode must be one of auto, direct, words"):
        load_encoder(tmp_path, mode="fastest")


def test_characters_are_learnt_together_as_they_are_alone() -> None:
    settings = orjson.loads(small_tokenizer("wordpiece").to_str())
    alone, codes = Characters(settings), [*range(128, 0x400), 0x4E00, 0xAC00, 0x1F6A2, ord(BETWEEN)]
    for code in codes:
        alone._learn([code])
    for batches in ([codes], [codes[:-1], codes[-1:]]):
        together = Characters(settings)
        for batch in batches:
            together._learn(batch)
        size = int(alone.table.offsets[alone._rows])
        assert together.growth == alone.growth
        assert np.array_equal(together.table.entries, alone.table.entries)
        assert np.array_equal(together.table.offsets[: alone._rows + 1], alone.table.offsets[: alone._rows + 1])
        for left, right in zip(together.table[2:], alone.table[2:], strict=True):
            assert np.array_equal(left[:size], right[:size])


def test_the_self_check_catches_a_wrong_cut() -> None:
    """A wrong rule, which allows cuts between letters, is noticed on the first texts; the tokens are right."""
    tokenizer = small_tokenizer("wordpiece")
    settings = orjson.loads(tokenizer.to_str())
    said: list[str] = []
    way = Way(open_tokenizer(settings), settings, "auto", said.append)
    assert way._words is not None
    cuts = way._words.rule.cuts.copy()
    cuts[kernels.LETTER * kernels.CLASSES + kernels.LETTER] = 1
    way._words.rule = replace(way._words.rule, cuts=cuts)
    assert same_tokens(way.encode(pa.array(CORPUS)), encode_strings(tokenizer, CORPUS))
    assert said == ["encoding text by text: its units do not give the tokens of the whole texts"]


def test_an_injected_error_in_a_unit_is_seen_by_the_comparison() -> None:
    tokenizer, _ = both_ways("wordpiece")
    words = words_of(tokenizer)
    fast = words.encode(pa.array(CORPUS))
    slow = encode_strings(tokenizer, CORPUS)
    assert same_tokens(fast, slow)
    words._tokens[0, 2] += 1
    assert not same_tokens(words.encode(pa.array(CORPUS)), slow)


# The template around a pair.


@pytest.mark.parametrize("kind", KINDS)
def test_template_lays_out_what_the_tokenizer_does(kind: str, tmp_path: Path) -> None:
    tokenizer = small_tokenizer(kind)
    encoder = load_encoder(save_folder(tokenizer, tmp_path))
    pair = tokenizer.encode("who paid", "the village")
    question, context = (encode_strings(tokenizer, [text]).ids for text in ("who paid", "the village"))
    template = encoder.template
    laid = np.concatenate([template.prefix, question, template.middle, context, template.suffix])
    assert laid.tolist() == pair.ids
    sizes = [len(part) for part in (template.prefix, question, template.middle, context, template.suffix)]
    assert np.repeat(template.part_types, sizes).tolist() == pair.type_ids
    assert pair.ids[template.cls_positions(np.array([len(pair.ids)], np.int32))[0]] == encoder.cls_id


def test_cls_behind_the_context(tmp_path: Path) -> None:
    from tokenizers import processors

    tokenizer = small_tokenizer("unigram")
    ids = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s> <s>", pair="$A </s> $B </s> <s>", special_tokens=ids
    )
    encoder = load_encoder(save_folder(tokenizer, tmp_path))
    assert encoder.template.cls_positions(np.array([9, 20], np.int32)).tolist() == [8, 19]


def test_unsuitable_tokenizers_are_refused(tmp_path: Path) -> None:
    from tokenizers import processors

    folder = save_folder(small_tokenizer("wordpiece"), tmp_path / "a")
    names = json.loads((folder / "tokenizer_config.json").read_text())
    # transformers adds these tokens. The model has no row for the one, and the template does not contain the other.
    (folder / "tokenizer_config.json").write_text(json.dumps({**names, "pad_token": "<nowhere>"}))
    rows = small_tokenizer("wordpiece").get_vocab_size()
    assert load_encoder(folder).pad_id == rows
    (folder / "config.json").write_text(json.dumps({"vocab_size": rows}))
    with pytest.raises(UserError, match=rf"ids must be below vocab_size of config.json, {rows}; received {rows}"):
        load_encoder(folder)
    (folder / "config.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({**names, "cls_token": "<nowhere>"}))
    with pytest.raises(UserError, match="labelled at the CLS token, and this tokenizer puts none"):
        load_encoder(folder)

    plain = small_tokenizer("wordpiece")
    plain.post_processor = processors.TemplateProcessing(
        single="$A [SEP]", pair="$A [SEP] $B [SEP]", special_tokens=[("[SEP]", plain.token_to_id("[SEP]"))]
    )
    with pytest.raises(UserError, match="labelled at the CLS token, and this tokenizer puts none"):
        load_encoder(save_folder(plain, tmp_path / "b"))

    turned = small_tokenizer("wordpiece")
    turned.post_processor = processors.TemplateProcessing(
        single="[CLS] $A",
        pair="[CLS] $B:0 [SEP] $A:1",
        special_tokens=[(t, turned.token_to_id(t)) for t in ("[CLS]", "[SEP]")],
    )
    with pytest.raises(UserError, match="must encode a pair as question, then context"):
        load_encoder(save_folder(turned, tmp_path / "c"))

    (tmp_path / "d").mkdir()
    with pytest.raises(UserError, match="must hold a tokenizer"):
        load_encoder(tmp_path / "d")
    (tmp_path / "d" / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="must be JSON"):
        load_encoder(tmp_path / "d")
    (tmp_path / "d" / "tokenizer.json").write_text("[]")
    with pytest.raises(UserError, match=r"tokenizer.json must be a JSON object"):
        load_encoder(tmp_path / "d")


def test_truncation_and_padding_of_the_file_are_switched_off(tmp_path: Path) -> None:
    tokenizer = small_tokenizer("wordpiece")
    plain = load_encoder(save_folder(tokenizer, tmp_path / "plain"))
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    padded = load_encoder(save_folder(tokenizer, tmp_path / "padded"))
    assert padded.tokenizer_hash == plain.tokenizer_hash
    assert len(padded.encode(pa.array([CORPUS[0]])).ids) == len(plain.encode(pa.array([CORPUS[0]])).ids) > 8


def test_padding_on_the_left_is_switched_off_where_transformers_makes_the_tokenizer(tmp_path: Path) -> None:
    """This happens if tokenizer_config.json disagrees with tokenizer.json, which has its own padding."""
    hashes = []
    for side in ("right", "left"):
        tokenizer = small_tokenizer("wordpiece")
        tokenizer.enable_padding(direction=side, length=64)
        tokenizer.enable_truncation(8, direction=side)
        folder = save_folder(tokenizer, tmp_path / side)
        names = json.loads((folder / "tokenizer_config.json").read_text())
        names.update(tokenizer_class="BertTokenizer", do_lower_case=False, padding_side=side)
        (folder / "tokenizer_config.json").write_text(json.dumps(names))
        encoder = load_encoder(folder)
        assert len(encoder.encode(pa.array([CORPUS[0]])).ids) > 8
        hashes.append(encoder.tokenizer_hash)
    assert hashes[0] == hashes[1]


def test_settings_that_disagree_with_the_file_follow_transformers(tmp_path: Path) -> None:
    """tokenizer_config.json says cased, tokenizer.json lowercases: transformers follows the former, and so do we."""
    from transformers import AutoTokenizer

    folder = save_folder(small_tokenizer("wordpiece"), tmp_path)
    names = json.loads((folder / "tokenizer_config.json").read_text())
    names.update(tokenizer_class="BertTokenizer", do_lower_case=False)
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    encoder, theirs = load_encoder(folder), AutoTokenizer.from_pretrained(folder)
    text = "Ane Skou paid"
    assert encoder.encode(pa.array([text])).ids.tolist() == theirs(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("name", ["RobertaTokenizer", "PreTrainedTokenizerFast"])
@pytest.mark.parametrize("space", [False, True])
def test_a_prefix_space_that_disagrees_with_the_file_follows_transformers(
    name: str, space: bool, tmp_path: Path
) -> None:
    """transformers' class for RoBERTa follows the settings; its general class follows the file."""
    from transformers import AutoTokenizer

    folder = save_folder(small_tokenizer("byte-level" if space else "byte-level-prefix-space"), tmp_path)
    names = json.loads((folder / "tokenizer_config.json").read_text())
    names.update(tokenizer_class=name, add_prefix_space=space)
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    encoder, theirs = load_encoder(folder, mode="words"), AutoTokenizer.from_pretrained(folder)
    text = "harbour was dug"
    encoded = encoder.encode(pa.array([text]))
    expected = theirs(text, add_special_tokens=False, return_offsets_mapping=True)
    assert encoded.ids.tolist() == expected["input_ids"]
    assert list(zip(encoded.char_start.tolist(), encoded.char_end.tolist(), strict=True)) == expected["offset_mapping"]


def test_variants_of_settings_leave_the_original_alone() -> None:
    settings = orjson.loads(small_tokenizer("unigram-strip").to_str())
    before = copy.deepcopy(settings)
    rule = choose_rule(settings)
    assert settings == before
    assert sorted(rule.settings) == [0, 1, 2, 3]
    assert rule.settings[3] == settings
