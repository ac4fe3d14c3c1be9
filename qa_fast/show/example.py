"""One example as a record: its windows, tokens and labels, computed by the functions that featurize uses.

If shards are shown, their features are compared with the computed ones, so that what is shown is what training reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qa_fast.encode import PairTemplate, TextEncoder
from qa_fast.features.examples import Checked
from qa_fast.features.windows import EncodedExamples, Windows, encode_examples, label, lay_out, plan, without_windows
from qa_fast.raw import UNPLACED, Repair
from qa_fast.schema import FeatureConfig, Int32s
from qa_fast.scripts import whole_clusters
from qa_fast.shards import TRAIN, Split
from qa_fast.show.records import Positions, ShownExample, Token, Window


@dataclass(frozen=True)
class StoredFeature:
    """A feature in a shard: window number, token ids and label."""

    window_index: int
    ids: Int32s
    label: Positions


def stored_features(split: Split, wanted: set[str]) -> dict[str, list[StoredFeature]]:
    """Return the features that a split holds of the wanted examples, by example id."""
    rows = pc.indices_nonzero(pc.is_in(split.ids, pa.array(list(wanted), pa.string()))).to_numpy()
    chunk_starts = np.cumsum([0, *(len(chunk) for chunk in split.chunks)])
    features_by_id: dict[str, list[StoredFeature]] = {}
    for row in rows.tolist():
        number = int(np.searchsorted(chunk_starts, row, side="right")) - 1
        chunk, at = split.chunks[number], row - int(chunk_starts[number])
        positions = Positions(int(chunk.start_positions[at]), int(chunk.end_positions[at]))
        feature = StoredFeature(int(chunk.window_index[at]), chunk.input_ids[at], positions)
        features_by_id.setdefault(split.ids[row].as_py(), []).append(feature)
    return features_by_id


def computed_example(
    split: str,
    row: dict[str, Any],
    checked: Checked,
    at: int,
    encoder: TextEncoder,
    config: FeatureConfig,
    stored: list[StoredFeature] | None = None,
) -> ShownExample:
    """Encode, cut and label one example.

    Args:
        split: Name of its split.
        row: id, question, context and answers, which is a dict of the lists text and answer_start.
        checked: Its table after the checks: other answers of its context decide where a misplaced answer is.
        at: Its row in that table.
        encoder: Encoder of the model's tokenizer.
        config: Sizes of windows, and the kind of labels that training uses.
        stored: Its features in shards; None if a source is shown.
    """
    answers = row["answers"] or {"text": [], "answer_start": []}
    given_answers = tuple(zip(answers["answer_start"] or (), answers["text"] or (), strict=False))
    example = ShownExample(split, row["id"], row["question"], row["context"], given_answers)
    if at in checked.rejects:
        return replace(example, rejected=checked.rejects[at].reason)
    examples = checked.examples.take(np.flatnonzero(checked.rows == at)).without_unused_contexts()
    encoded = encode_examples(examples, encoder)
    example = replace(
        example,
        span=(int(examples.span_start[0]), int(examples.span_end[0])) if examples.span_start[0] >= 0 else None,
        notes=(_repair_note(checked.repairs[at]),) if at in checked.repairs else (),
        question_tokens=len(encoded.questions.ids),
        document_tokens=len(encoded.contexts.ids),
    )
    rejected = without_windows(encoded, encoder.template, config)
    if rejected:
        return replace(example, rejected=rejected[0][1].reason)
    windows = _windows(encoded, encoder, config, drop=config.drop_impossible and split == TRAIN)
    if stored is None:
        return replace(example, windows=windows)
    windows, differences = _as_stored(windows, stored)
    return replace(example, windows=windows, notes=(*example.notes, *differences))


def _repair_note(repair: Repair) -> str:
    if repair.cause == UNPLACED:
        return f"The example is kept for scoring, and labelled without an answer: {repair.reason}."
    return f"The first answer is not at its answer_start; it was repaired ({repair.cause}): {repair.reason}."


def _windows(encoded: EncodedExamples, encoder: TextEncoder, config: FeatureConfig, drop: bool) -> tuple[Window, ...]:
    plans = plan(encoded, encoder.template, config)
    both = [label(encoded, plans, replace(config, labels=mode), encoder.space_led) for mode in ("exact", "reference")]
    exact, reference = (
        list(map(Positions, labels.start_positions.tolist(), labels.end_positions.tolist())) for labels in both
    )
    ids = lay_out(
        encoded.questions, encoded.question_index, encoded.contexts, encoded.examples.context_index, plans, both[0],
        encoder,
    ).input_ids  # fmt: skip
    is_answerable = encoded.examples.answer_char_start[0] >= 0
    # Offsets count from the first character that is no white space.
    lead = int(encoded.leading_chars[encoded.examples.context_index[0]])
    places = np.stack([encoded.contexts.char_start, encoded.contexts.char_end], axis=1) + lead
    windows = []
    for row in range(len(plans)):
        chosen = reference[row] if config.labels == "reference" else exact[row]
        cls_position = int(plans.cls_position[row])
        first, last, begin = int(plans.token_start[row]), int(plans.token_end[row]), int(plans.context_start[row])
        tokens = _tokens(ids[row], begin, begin + last - first, encoder, places[first:last].tolist())
        spans = [place for place in places[first:last].tolist() if place[0] != place[1]]
        windows.append(
            Window(
                index=int(plans.window_index[row]),
                token_start=first,
                token_end=last,
                char_start=min((start for start, _ in spans), default=0),
                char_end=max((end for _, end in spans), default=0),
                tokens=tokens,
                cls_position=cls_position,
                label=chosen,
                exact=exact[row],
                reference=reference[row],
                label_text=_label_text(encoded, tokens, chosen),
                cause=_cause(encoded, plans, row, config, encoder),
                kept=not (drop and is_answerable and chosen.start == cls_position),
            )
        )
    return tuple(windows)


def _cause(
    encoded: EncodedExamples, plans: Windows, row: int, config: FeatureConfig, encoder: TextEncoder
) -> str | None:
    """Return why the labels of a window differ. The kernels count causes, so the window is labelled alone."""
    counts = label(encoded, plans.take(slice(row, row + 1)), config, encoder.space_led).differences
    return next((cause for cause, count in counts.items() if count), None)


def _tokens(
    ids: Int32s, context_start: int, context_end: int, encoder: TextEncoder, places: Sequence[Sequence[int]] = ()
) -> tuple[Token, ...]:
    """Return the tokens of a feature, with the first and last character of those of the context if they are known."""
    question = range(len(encoder.template.prefix), context_start - len(encoder.template.middle))
    tokens = []
    for position, token_id in enumerate(ids.tolist()):
        part = "question" if position in question else "special"
        place: Sequence[int | None] = (None, None)
        if context_start <= position < context_end:
            part, place = "context", places[position - context_start] if places else place
        tokens.append(Token(position, token_id, token_text(encoder, token_id), part, *place))
    return tuple(tokens)


def token_text(encoder: TextEncoder, token_id: int) -> str:
    """Return a token as the vocabulary writes it; bytes of byte-level tokens are decoded to characters."""
    text = encoder.tokenizer.token_of(token_id) or ""
    if text.isascii() or (encoder.settings.get("decoder") or {}).get("type") != "ByteLevel":
        return text
    decoded = encoder.tokenizer.decode([token_id], skip_special_tokens=False)
    return f"Ġ{decoded[1:]}" if decoded.startswith(" ") else decoded


def _label_text(encoded: EncodedExamples, tokens: tuple[Token, ...], positions: Positions) -> str | None:
    """Return the text of the context at a label; None at CLS and in the padding."""
    labelled = [token for token in tokens[positions.start : positions.end + 1] if token.char_start is not None]
    if not labelled or tokens[positions.start].part != "context":
        return None
    context = encoded.examples.contexts[0].as_py()
    place = (np.array([place], np.int32) for place in (labelled[0].char_start, labelled[-1].char_end))
    (start,), (end,) = whole_clusters([context], np.array([0, 1]), *place)
    return str(context[start:end])


def _as_stored(
    windows: tuple[Window, ...], stored: list[StoredFeature]
) -> tuple[tuple[Window, ...], tuple[str, ...]]:  # fmt: skip
    """Mark the windows that shards do not hold, and describe the differences from the computed ones."""
    stored_by_index = {feature.window_index: feature for feature in stored}
    shown, notes = [], []
    for window in windows:
        feature = stored_by_index.pop(window.index, None)
        if feature is None:
            shown.append(replace(window, kept=False))
            continue
        is_same = np.array_equal(feature.ids, np.array([token.token_id for token in window.tokens]))
        if not is_same or feature.label != window.label:
            tokens = "the same" if is_same else "different"
            notes.append(
                f"Window {window.index + 1} of the shards differs from what featurize makes now: its label is "
                f"{feature.label.start} to {feature.label.end}, its tokens are {tokens}."
            )
        shown.append(window)
    notes += [f"The shards hold a window {index + 1} that featurize does not make now." for index in stored_by_index]
    return tuple(shown), tuple(notes)


def decoded_example(split: str, row_id: str, stored: list[StoredFeature], encoder: TextEncoder) -> ShownExample:
    """Return an example whose texts are not available: they are decoded from its tokens.

    Args:
        split: Name of its split.
        row_id: Its id.
        stored: Its features, at least one.
        encoder: The tokenizer that the features were made with.
    """
    windows = []
    for feature in stored:
        begin, end = _context_of(feature.ids, encoder.template)
        tokens = _tokens(feature.ids, begin, end, encoder)
        cls_position = int(encoder.template.cls_positions(np.array([len(feature.ids)], np.int32))[0])
        label_text = None
        if feature.label.start != cls_position:
            label_text = encoder.tokenizer.decode(feature.ids[feature.label.start : feature.label.end + 1].tolist())
        windows.append(
            Window(
                feature.window_index, None, None, None, None, tokens, cls_position, feature.label, label_text=label_text
            )
        )  # fmt: skip
    question_ids = [token.token_id for token in windows[0].tokens if token.part == "question"]
    answer = next((window.label_text for window in windows if window.label_text), None)
    return ShownExample(
        split,
        row_id,
        question=encoder.tokenizer.decode(question_ids),
        context=None,
        answers=((-1, answer),) if answer is not None else (),
        question_tokens=len(question_ids),
        windows=tuple(windows),
    )


def _context_of(ids: Int32s, template: PairTemplate) -> tuple[int, int]:
    """Return the positions of the context, which follows the first special tokens that separate a pair."""
    middle, end = template.middle.tolist(), len(ids) - len(template.suffix)
    for at in range(len(template.prefix), end):
        if ids[at : at + len(middle)].tolist() == middle:
            return at + len(middle), end
    return end, end
