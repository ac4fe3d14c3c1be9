"""Answers questions about documents, with the removed transformers pipeline's arguments and result keys.

Each distinct text is encoded once, a long document is cut into overlapping windows, and the windows of all questions
are predicted together. Start and end are scored jointly over all windows; `score` is the probability among the best
spans and no answer together (see `decode`), where the old pipeline multiplied two probabilities of one window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from qa_fast.answer.questions import AnswerOptions, Prepared, prepare
from qa_fast.encode import TextEncoder, load_encoder
from qa_fast.errors import UserError, shown
from qa_fast.infer.decode import BestSpans
from qa_fast.infer.spans import Predict, best_spans
from qa_fast.model.fields import Fields
from qa_fast.model.files import read_object
from qa_fast.model.folder import folder_config
from qa_fast.sources import resolve_model

if TYPE_CHECKING:
    from qa_fast.keras_model.span_model import SpanModel


class Answer(TypedDict):
    """One answer: its probability, its characters [start, end) in the context as given, and its text."""

    score: float
    start: int
    end: int
    answer: str


class ShownAnswer(dict[str, Any]):
    """An `Answer` that a notebook shows in its document."""

    def __init__(self, answer: Answer, context: Any, question: Any) -> None:
        super().__init__(answer)
        self._asked = str(context), str(question)

    def _repr_html_(self) -> str:
        from qa_fast.show.notebook import answer_html

        return answer_html(self, *self._asked)


class ShownAnswers(list[Answer]):
    """Answers to one question, best first, that a notebook shows in their document."""

    def __init__(self, answers: Sequence[Answer], context: Any, question: Any) -> None:
        super().__init__(answers)
        self._asked = str(context), str(question)

    def _repr_html_(self) -> str:
        from qa_fast.show.notebook import answer_html

        return answer_html(self, *self._asked)


# Of the pipeline's options: how it batched, on which no answer depends.
_IGNORED = ("batch_size", "num_workers", "padding")

Result = list[Answer] | str  # a pair's answers, best first, or why it cannot be answered


class Answerer:
    """Answers questions with a model folder.

    Args:
        predict: Features in chunks to batches of logits, such as `Engine.predict`.
        encoder: The model's tokenizer.
        max_positions: Longest input of the model in tokens.
        max_windows: Refuse a document that makes more windows; None refuses none.
    """

    def __init__(
        self, predict: Predict, encoder: TextEncoder, max_positions: int = 512, max_windows: int | None = None
    ) -> None:
        self.predict = predict
        self.encoder = encoder
        self.max_positions = max_positions
        self.max_windows = max_windows

    @classmethod
    def from_pretrained(
        cls, path: str | Path, precision: str = "auto", engine: str = "auto", say: Callable[[str], None] | None = None
    ) -> Answerer:
        """Load a model.

        Args:
            path: A model folder, a Hub id or "minilm".
            precision: See `infer.open_engine`, as for the others.
            engine: "auto", "keras", "openvino" or "onnx".
            say: Told in a line what a first time takes long for.

        Raises:
            UserError: No usable model, tokenizer or engine there.
        """
        folder = resolve_model(str(path))
        encoder = load_encoder(folder)
        from qa_fast.infer import open_engine

        return cls(open_engine(folder, engine, precision, say=say).predict, encoder, max_positions_of(folder))

    @classmethod
    def from_model(cls, model: SpanModel) -> Answerer:
        """Answer with a model in memory, such as one that was just fitted; nothing is saved.

        It reads by Keras, with the model's weights as they are at each call.

        Args:
            model: A `qa_fast.SpanModel`.

        Raises:
            UserError: The model has no tokenizer.
        """
        from qa_fast.infer.keras_engine import KerasEngine

        with model.source.as_folder() as folder:
            encoder, longest = load_encoder(folder), max_positions_of(folder)
        return cls(KerasEngine(model.network).predict, encoder, longest)

    def __call__(
        self,
        *inputs: Any,
        question: str | Iterable[str] | None = None,
        context: str | Iterable[str] | None = None,
        top_k: int | None = 1,
        doc_stride: int | None = None,
        max_answer_len: int | None = 15,
        max_seq_len: int | None = None,
        max_question_len: int | None = 64,
        handle_impossible_answer: bool | None = False,
        align_to_words: bool | None = True,
        **others: Any,
    ) -> Any:
        """Answer one question or many.

        Args:
            inputs: Instead of the names `question` and `context`: a question and a context, or a dict (or dicts, or a
                list or generator of them) with those keys.
            question: A question, or a list of them.
            context: Its document, or a list of as many; a single one serves all questions.
            top_k: See `AnswerOptions`, as for the other options. None is the default of any, as it was in the pipeline.
            doc_stride: Tokens.
            max_answer_len: Tokens.
            max_seq_len: Tokens.
            max_question_len: Tokens.
            handle_impossible_answer: Let no answer compete.
            align_to_words: Widen answers to whole words.
            others: What else the pipeline took: `data` and `X` are other names of `inputs`; `batch_size`, `num_workers`
                and `padding` are ignored, since windows are grouped by length here and no answer depends on them.

        Returns:
            For one question an `Answer`, or with top_k > 1 a list of them, best first; for a list of questions (be it
            of one) a list of those. An empty context gives the empty answer.

        Raises:
            UserError: Inputs or options that cannot be answered with.
        """
        named: dict[str, Any] = {
            "top_k": top_k,
            "doc_stride": doc_stride,
            "max_answer_len": max_answer_len,
            "max_seq_len": max_seq_len,
            "max_question_len": max_question_len,
            "handle_impossible_answer": handle_impossible_answer,
            "align_to_words": align_to_words,
        }
        pairs, single = _pairs(_inputs_of(inputs, others, named), question, context)
        options = AnswerOptions(**{name: value for name, value in named.items() if value is not None})
        results: list[Any] = []
        for (asked, document), answers in zip(pairs, self.answer_pairs(pairs, options), strict=True):
            if isinstance(answers, str):
                raise UserError(answers)
            if options.top_k == 1:
                results.append(ShownAnswer(answers[0], document, asked))
            else:
                results.append(ShownAnswers(answers, document, asked))
        return results[0] if single else results

    def answer_pairs(self, pairs: Sequence[tuple[Any, Any]], options: AnswerOptions) -> list[Result]:
        """Answer pairs of a question and a context together.

        Args:
            pairs: E pairs.
            options: For all of them.

        Returns:
            For each pair its answers, best first and at least one, or why it cannot be answered.

        Raises:
            UserError: The options do not fit the model.
        """
        return answer_prepared(self.predict, [self.prepare(pairs, options)])[0]

    def prepare(self, pairs: Sequence[tuple[Any, Any]], options: AnswerOptions) -> Prepared:
        """The first half of `answer_pairs`, without the model; threads may call it at a time."""
        return prepare(pairs, options, self.encoder, self.max_positions, self.max_windows)


def answer_prepared(predict: Predict, jobs: Sequence[Prepared]) -> list[list[Result]]:
    """Answer what was prepared, the windows of all jobs in one call of `predict`; their options may differ.

    Args:
        predict: Features in chunks to batches of logits.
        jobs: Of one model.

    Returns:
        For each job and each of its pairs its answers, best first and at least one, or why it cannot be answered.
    """
    found = iter(best_spans(predict, [job.job for job in jobs if job.job is not None]))
    return [results_of(job, None if job.job is None else next(found)) for job in jobs]


def results_of(prepared: Prepared, spans: BestSpans | None) -> list[Result]:
    """For each pair its answers, best first and at least one, or why it cannot be answered.

    Args:
        prepared: The pairs.
        spans: What was found for those that have windows; None where none has.
    """
    given: list[Result] = [[_null(1.0)] if refusal is None else refusal for refusal in prepared.refusals]
    if spans is not None:
        for row, answers in zip(prepared.rows, _ranked(spans, prepared.contexts, prepared.options), strict=True):
            given[row] = answers
    return given


def max_positions_of(folder: Path) -> int:
    """Longest input in tokens of a model folder, by its config.json and tokenizer_config.json."""
    config = folder_config(folder)
    about = Fields(read_object(folder, "tokenizer_config.json") or {}, "tokenizer_config.json")
    if about.raw.get("model_max_length") is None:
        return config.max_length
    return int(min(config.max_length, about.number("model_max_length", 1, least=1)))


def _inputs_of(inputs: tuple[Any, ...], others: dict[str, Any], known: Iterable[str]) -> tuple[Any, ...]:
    """The inputs of a call by position, or by the other names that the pipeline had for them."""
    for name, value in others.items():
        if name == "topk":
            raise UserError("the number of answers must be given as top_k; received topk: rename it")
        if name in ("data", "X"):
            if inputs:
                raise UserError(f"inputs must come by position or by name; received both, {name} too: leave one out")
            inputs = (value,)
        elif name not in _IGNORED:
            raise UserError(
                f"an option must be one of {', '.join(known)}; received {name[:40]}: leave it out, or mend its name"
            )
    return inputs


def _pairs(inputs: tuple[Any, ...], question: Any, context: Any) -> tuple[list[tuple[Any, Any]], bool]:
    """The pairs of a call, and whether it asked a single question."""
    if inputs and (question is not None or context is not None):
        raise UserError("inputs must come by position or by name; received both: leave one out")
    if len(inputs) == 2 and isinstance(inputs[0], str):
        question, context = inputs
    elif inputs:
        single = len(inputs) == 1 and isinstance(inputs[0], dict)
        many = len(inputs) == 1 and isinstance(inputs[0], Iterable) and not isinstance(inputs[0], dict | str | bytes)
        given = list(inputs[0]) if many else list(inputs)
        for item in given:
            if not isinstance(item, dict) or not {"question", "context"} <= item.keys():
                has = f"a dict with {', '.join(map(str, item))[:80]}" if isinstance(item, dict) else type(item).__name__
                raise UserError(f"each input must be a dict with question and context; received {has}")
        return [(item["question"], item["context"]) for item in given], single
    if question is None or context is None:
        raise UserError(
            f"a question and a context must be given; received no {'question' if question is None else 'context'}"
        )
    if isinstance(question, str) and isinstance(context, str):
        return [(question, context)], True
    questions = [question] if isinstance(question, str) else _texts("question", question)
    contexts = [context] * len(questions) if isinstance(context, str) else _texts("context", context)
    if len(questions) != len(contexts):
        raise UserError(
            f"questions and contexts must be of one number; received {len(questions)} and {len(contexts)}: "
            "give one context for each question, or a single one for all"
        )
    return list(zip(questions, contexts, strict=True)), False


def _texts(name: str, given: Any) -> list[Any]:
    """What was given as a list; whether its items are texts is looked at later, in each pair alone."""
    # A dict would give its keys, bytes their numbers, and a set no order.
    if isinstance(given, Mapping | Set | bytes | bytearray | memoryview) or not isinstance(given, Iterable):
        raise UserError(
            f"{name} must be a text or a list of texts; received {type(given).__name__} {shown(given)}: give texts"
        )
    return list(given)


def _null(score: float) -> Answer:
    return {"score": score, "start": 0, "end": 0, "answer": ""}


def _ranked(spans: BestSpans, contexts: list[str], options: AnswerOptions) -> Iterator[list[Answer]]:
    """The answers of each example, best first."""
    shares, null_shares = spans.probabilities()
    null_ranks = spans.null_rank().tolist()
    for row, context in enumerate(contexts):
        lead = len(context) - len(context.lstrip())
        count = int(spans.count[row])
        columns = (shares, spans.char_start + lead, spans.char_end + lead)
        answers: list[Answer] = [
            {"score": share, "start": start, "end": end, "answer": context[start:end]}
            for share, start, end in zip(*(column[row, :count].tolist() for column in columns), strict=True)
        ]
        if options.handle_impossible_answer or not count:
            answers.insert(null_ranks[row], _null(float(null_shares[row])))
        yield answers[: options.top_k]
