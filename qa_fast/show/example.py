"""One example as a record: its windows, tokens and both labels, from the very functions and kernels that featurize.

Where shards are looked at, what they hold is compared with that, so what is shown is what training reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qa_fast.encode import PairTemplate, TextEncoder
from qa_fast.features.examples import Examples, check_examples
from qa_fast.features.windows import EncodedExamples, Windows, encode_examples, label, lay_out, no_room, plan
from qa_fast.raw import EXAMPLES
from qa_fast.schema import FeatureConfig, Int32s
from qa_fast.shards import TRAIN, Split
from qa_fast.show.records import Positions, Shown, Token, Window


@dataclass(frozen=True)
class Stored:
    """A feature as a shard holds it."""

    window_index: int
    ids: Int32s
    label: Positions


def stored_features(split: Split, wanted: set[str]) -> dict[str, list[Stored]]:
    """The features that a split holds of some examples, by id."""
    rows = pc.indices_nonzero(pc.is_in(split.ids, pa.array(list(wanted), pa.string()))).to_numpy()
    found: dict[str, list[Stored]] = {}
    for chunk, row, place in _places(split, rows.tolist()):
        features = split.chunks[chunk]
        at = Positions(int(features.start_positions[row]), int(features.end_positions[row]))
        stored = Stored(int(features.window_index[row]), features.input_ids[row], at)
        found.setdefault(split.ids[place].as_py(), []).append(stored)
    return found


def first_ids(split: Split, count: int) -> list[str]:
    """The ids of a split's first examples."""
    ids: dict[str, None] = {}
    for row in range(len(split)):
        ids.setdefault(split.ids[row].as_py())
        if len(ids) > count:
            break
    return list(ids)[:count]


def _places(split: Split, rows: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Chunk, row in it, and row in the split."""
    begins = np.cumsum([0, *(len(chunk) for chunk in split.chunks)])
    for place in rows:
        chunk = int(np.searchsorted(begins, place, side="right")) - 1
        yield chunk, place - int(begins[chunk]), place


def shown_example(
    split: str,
    row: dict[str, Any],
    is_repeated: bool,
    encoder: TextEncoder,
    config: FeatureConfig,
    stored: list[Stored] | None = None,
) -> Shown:
    """One example, checked, encoded, cut and labelled.

    Args:
        split: Its split.
        row: id, question, context and answers, a dict of the lists text and answer_start.
        is_repeated: Whether its id came before in the split.
        encoder: The model's tokenizer.
        config: Window sizes and the kind of labels that training sees.
        stored: Its features in shards; None where no shards are looked at.
    """
    answers = row["answers"] or {"text": [], "answer_start": []}
    given = tuple(zip(answers["answer_start"] or (), answers["text"] or (), strict=False))
    shown = Shown(split, row["id"], row["question"], row["context"], given)
    table = pa.Table.from_pylist([row], schema=EXAMPLES)
    examples, rejects, repaired = check_examples(table, np.array([is_repeated]))
    if rejects:
        return replace(shown, rejected=rejects[0].reason)
    encoded = encode_examples(examples, encoder)
    notes = _repair(examples, given) if repaired else ()
    shown = replace(
        shown,
        span=(int(examples.span_start[0]), int(examples.span_end[0])) if examples.span_start[0] >= 0 else None,
        notes=notes,
        question_tokens=len(encoded.questions.ids),
        document_tokens=len(encoded.contexts.ids),
    )
    rejected = no_room(encoded, encoder.template, config)
    if rejected:
        return replace(shown, rejected=rejected[0][1].reason)
    windows = _windows(encoded, encoder, config, drop=config.drop_impossible and split == TRAIN)
    if stored is None:
        return replace(shown, windows=windows)
    windows, differing = _as_stored(windows, stored)
    return replace(shown, windows=windows, notes=(*notes, *differing))


def _repair(examples: Examples, given: tuple[tuple[int, str], ...]) -> tuple[str, ...]:
    answer = examples.answers[0].as_py()
    start, text = answer["answer_start"][0], answer["text"][0]
    was = f"answer_start={given[0][0]}"
    return (f"The first answer does not stand at its {was}; it was put at {start}, where {text!r} stands.",)


def _windows(encoded: EncodedExamples, encoder: TextEncoder, config: FeatureConfig, drop: bool) -> tuple[Window, ...]:
    plans = plan(encoded, encoder.template, config)
    exact, reference = (
        label(encoded, plans, replace(config, labels=kind), encoder.space_led) for kind in ("exact", "reference")
    )
    ids, _ = lay_out(
        encoded.questions, encoded.question_index, encoded.contexts, encoded.examples.context_index, plans,
        encoder.template, with_types=False,
    )  # fmt: skip
    answerable = encoded.examples.answer_char_start[0] >= 0
    made = []
    for row in range(len(plans)):
        pair = [Positions(int(each.start_positions[row]), int(each.end_positions[row])) for each in (exact, reference)]
        chosen = pair[config.labels == "reference"]
        cls_position = int(plans.cls_position[row])
        tokens = _tokens(encoded, plans, row, ids[row], encoder)
        spans = [(token.char_start, token.char_end) for token in tokens if token.char_start != token.char_end]
        made.append(
            Window(
                index=int(plans.window_index[row]),
                token_start=int(plans.token_start[row]),
                token_end=int(plans.token_end[row]),
                char_start=min((start for start, _ in spans if start is not None), default=0),
                char_end=max((end for _, end in spans if end is not None), default=0),
                tokens=tokens,
                cls_position=cls_position,
                label=chosen,
                exact=pair[0],
                reference=pair[1],
                label_text=_text_of(encoded, tokens, chosen),
                reference_text=_text_of(encoded, tokens, pair[1]),
                cause=_cause(encoded, plans, row, config, encoder),
                kept=not (drop and answerable and chosen.start == cls_position),
            )
        )
    return tuple(made)


def _cause(
    encoded: EncodedExamples, plans: Windows, row: int, config: FeatureConfig, encoder: TextEncoder
) -> str | None:
    """The kernels count causes; of a single window, the one that is counted is its own."""
    counts = label(encoded, plans.take(slice(row, row + 1)), config, encoder.space_led).differences
    return next((cause for cause, count in counts.items() if count), None)


def _tokens(
    encoded: EncodedExamples, plans: Windows, row: int, ids: Int32s, encoder: TextEncoder
) -> tuple[Token, ...]:  # fmt: skip
    template, begin = encoder.template, int(plans.context_start[row])
    first, end = int(plans.token_start[row]), begin + int(plans.token_end[row] - plans.token_start[row])
    lead = int(encoded.leading_chars[encoded.examples.context_index[0]])
    tokens = []
    for position, token_id in enumerate(ids.tolist()):
        text = token_text(encoder, token_id)
        if begin <= position < end:
            at = first + position - begin
            start, stop = (int(edges[at]) + lead for edges in (encoded.contexts.char_start, encoded.contexts.char_end))
            tokens.append(Token(position, token_id, text, "context", start, stop))
        else:
            tokens.append(Token(position, token_id, text, _part(position, begin, end, template)))
    return tuple(tokens)


def token_text(encoder: TextEncoder, token_id: int) -> str:
    """A token as its vocabulary writes it, but for byte-level ones, whose bytes are made into characters again."""
    text = encoder.tokenizer.id_to_token(token_id) or ""
    if text.isascii() or (encoder.settings.get("decoder") or {}).get("type") != "ByteLevel":
        return text
    decoded = str(encoder.tokenizer.decode([token_id], skip_special_tokens=False))
    return f"Ġ{decoded[1:]}" if decoded.startswith(" ") else decoded


def _part(position: int, context_start: int, context_end: int, template: PairTemplate) -> str:
    if context_start <= position < context_end:
        return "context"
    in_question = len(template.prefix) <= position < context_start - len(template.middle)
    return "question" if in_question else "special"


def _text_of(encoded: EncodedExamples, tokens: tuple[Token, ...], at: Positions) -> str | None:
    """What of the context a label reads as; None at CLS and in the padding."""
    covered = [token for token in tokens[at.start : at.end + 1] if token.char_start is not None]
    if at.start >= len(tokens) or not covered or tokens[at.start].part != "context":
        return None
    context = encoded.examples.contexts[0].as_py()
    return str(context[covered[0].char_start : covered[-1].char_end])


def _as_stored(windows: tuple[Window, ...], stored: list[Stored]) -> tuple[tuple[Window, ...], tuple[str, ...]]:
    """The windows as shards hold them, and what is not as it would be made now."""
    held = {feature.window_index: feature for feature in stored}
    seen, notes = [], []
    for window in windows:
        feature = held.pop(window.index, None)
        if feature is None:
            seen.append(replace(window, kept=False))
            continue
        made = np.array([token.token_id for token in window.tokens])
        if not np.array_equal(feature.ids, made) or feature.label != window.label:
            notes.append(
                f"The shards' window {window.index + 1} is not as it would be made now: its label is "
                f"{feature.label.start} to {feature.label.end}, its tokens are "
                f"{'the same' if np.array_equal(feature.ids, made) else 'others'}."
            )
        seen.append(window)
    notes += [f"The shards hold a window {index + 1}, which would not be cut now." for index in held]
    return tuple(seen), tuple(notes)


def decoded_example(split: str, row_id: str, stored: list[Stored], encoder: TextEncoder) -> Shown:
    """An example of which shards hold tokens and labels alone: its texts are what the tokens decode to.

    Args:
        split: Its split.
        row_id: Its id.
        stored: Its features, at least one.
        encoder: The tokenizer that they were made with.
    """
    windows, question = [], ""
    for feature in stored:
        begin, end = _context_of(feature.ids, encoder.template)
        ids = feature.ids.tolist()
        question = encoder.tokenizer.decode(ids[len(encoder.template.prefix) : begin - len(encoder.template.middle)])
        tokens = tuple(
            Token(at, each, token_text(encoder, each), _part(at, begin, end, encoder.template))
            for at, each in enumerate(ids)
        )
        cls_position = int(encoder.template.cls_positions(np.array([len(ids)], np.int32))[0])
        holds = feature.label.start != cls_position
        reads = encoder.tokenizer.decode(ids[feature.label.start : feature.label.end + 1]) if holds else None
        windows.append(
            Window(
                feature.window_index, None, None, None, None, tokens, cls_position, feature.label, label_text=reads
            )
        )  # fmt: skip
    answer = next((window.label_text for window in windows if window.label_text), None)
    answers = ((-1, answer),) if answer is not None else ()
    question_tokens = sum(token.part == "question" for token in windows[0].tokens)
    return Shown(split, row_id, question, None, answers, question_tokens=question_tokens, windows=tuple(windows))


def _context_of(ids: Int32s, template: PairTemplate) -> tuple[int, int]:
    """Where the context begins and ends in a feature: behind the first special tokens that part a pair."""
    middle, end = template.middle.tolist(), len(ids) - len(template.suffix)
    for at in range(len(template.prefix), end):
        if ids[at : at + len(middle)].tolist() == middle:
            return at + len(middle), end
    return end, end
