"""Answers questions about documents, with the arguments and result keys of the pipeline that transformers 4 had.

Each distinct text is encoded once, a long document is cut into overlapping windows, and the windows of all questions
are predicted together. Start and end are scored jointly over all windows: `score` is the probability of a span among
the best spans and no answer (see `infer.decode`), or, of a calibrated model, the probability that the answer is right
(see `answer.calibration`). The old pipeline multiplied two probabilities of one window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from qa_fast.answer.evidence import MARGIN, evidence_of, with_sentence
from qa_fast.answer.foreign import check_arguments
from qa_fast.answer.inputs import OPTION_NAMES, PLACE, inputs_of, listed, pair_of, pairs_of
from qa_fast.answer.options import DEFAULT_OVERLAP, AnswerOptions
from qa_fast.answer.passages import PassageIndex, whole_documents
from qa_fast.answer.questions import prepare, text_problem
from qa_fast.answer.ranking import Answer, RankedAnswer, ranking, usable
from qa_fast.answer.results import Result, no_answer_of, results_of
from qa_fast.answer.settings import max_positions_of, read_settings
from qa_fast.encode import TextEncoder, load_encoder
from qa_fast.errors import UserError
from qa_fast.infer.decode import LogitBatch
from qa_fast.infer.spans import Predict, best_spans
from qa_fast.model.folder import readable_config
from qa_fast.schema import Features
from qa_fast.sources import resolve_model


class _InNotebook:
    """Adds to a dict or list of answers how a notebook displays it: marked in the document."""

    def __init__(self, content: Any, question: Any, context: Any) -> None:
        super().__init__(content)  # type: ignore[call-arg]
        self._asked = str(context), str(question)

    def _repr_html_(self) -> str:
        from qa_fast.show.notebook import answer_html

        return answer_html(self, *self._asked)  # type: ignore[arg-type]


class ShownAnswer(_InNotebook, dict[str, Any]):
    """An `Answer` that a notebook displays in its document."""


class ShownAnswers(_InNotebook, list[Answer]):
    """Answers to one question, best first, that a notebook displays in their document."""


# Rows answered together: enough to fill batches and to encode a document once for all its questions.
ROWS_AT_ONCE = 512


class Answerer:
    """Answers questions with a model.

    Args:
        predict: Turns chunks of features into batches of logits, such as `Engine.predict`.
        encoder: The model's tokenizer.
        max_positions: Longest input of the model in tokens.
        max_windows: Largest number of windows that a document may be cut into; None sets no limit.
        options: Defaults of every call, such as `AnswerOptions(null_threshold=-1.5)`.

    Examples:
        >>> ask = Answerer.from_pretrained("model/")
        >>> ask(question="When was the harbour dug?", context="The harbour was dug in 1874.")
        {'score': 0.97, 'start': 23, 'end': 27, 'answer': '1874'}
    """

    def __init__(
        self,
        predict: Predict,
        encoder: TextEncoder,
        max_positions: int = 512,
        max_windows: int | None = None,
        options: AnswerOptions | None = None,
    ) -> None:
        self.predict = predict
        self.encoder = encoder
        self.max_positions = max_positions
        self.max_windows = max_windows
        self.options = options or AnswerOptions()

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path | None = None,
        precision: str = "auto",
        engine: str = "auto",
        say: Callable[[str], None] | None = None,
        options: AnswerOptions | None = None,
        **others: Any,
    ) -> Answerer:
        """Load a model.

        Args:
            path: A model folder, a Hub id or "minilm".
            precision: "auto", "float32", "bfloat16", "float16" or "int8"; see `infer.open_engine`.
            engine: "auto", "keras", "openvino" or "onnx".
            say: Receives a line of text before a step that is slow the first time.
            options: Defaults of every call; None in them means the model's own, see `answer.settings`.
            others: Fields of `options` by name. Of the pipeline's arguments, `model` is accepted for `path`, `dtype` or
                `torch_dtype` for `precision`; those that decide no answer are ignored, and the rest is refused.

        Raises:
            UserError: The model, its tokenizer or the engine cannot be used, or an argument is refused.
        """
        path = others.pop("model", None) if path is None else path
        if path is None:
            raise UserError("a model is needed; received none: pass a model folder, a Hub id or 'minilm'")
        for name in ("dtype", "torch_dtype"):
            if (dtype := others.pop(name, None)) is not None:
                precision = str(dtype).removeprefix("torch.")
        own = {name: others.pop(name) for name in OPTION_NAMES if name in others}
        check_arguments(others, ("path", "precision", "engine", "say", "options", *OPTION_NAMES))
        options = replace(options or AnswerOptions(), **own)
        folder = resolve_model(path)
        readable_config(folder)  # before the tokenizer, which may import a framework
        options = options.over(read_settings(folder))
        encoder = load_encoder(folder)
        from qa_fast.infer import open_engine

        predict = open_engine(folder, engine, precision, say=say).predict
        return cls(predict, encoder, max_positions_of(folder), options=options)

    @classmethod
    def from_model(cls, model: Any) -> Answerer:
        """Answer with a model in memory, such as one that was just fitted. Nothing is saved.

        Keras computes the answers, with the weights that the model has at each call.

        Args:
            model: A `qa_fast.SpanModel`.

        Raises:
            UserError: The model has no tokenizer; at a call, see `SpanModel.check_trained`.
        """
        from qa_fast.infer.keras_engine import KerasEngine

        with model.source.as_folder() as folder:
            encoder, longest, options = load_encoder(folder), max_positions_of(folder), read_settings(folder)
        engine = KerasEngine(model.network)

        def predict(chunks: Sequence[Features]) -> Iterator[LogitBatch]:
            model.check_trained()
            return engine.predict(chunks)

        return cls(predict, encoder, longest, options=options)

    def __call__(
        self,
        *inputs: Any,
        question: str | Iterable[str] | None = None,
        context: str | Iterable[str] | None = None,
        **options: Any,
    ) -> Any:
        """Answer one question or many.

        Args:
            inputs: In place of the names `question` and `context`: a question and a context, or a dict with these two
                keys, or several such dicts, a list of them or an iterator, such as a generator.
            question: A question, or a list of questions.
            context: The document, or one document for each question. A single document serves all questions.
            options: Any field of `AnswerOptions`, such as `top_k=3`. None means the answerer's own, see the class. The
                pipeline's `data` and `X` are accepted as names of `inputs`; its `batch_size`, `num_workers` and
                `padding` are ignored.

        Returns:
            For one question an `Answer`, or a list of them, best first, if top_k > 1; with evidence a list of
            `Evidence`. For a list of questions, even of length 1, a list of these. For an iterator of dicts an iterator
            of these, which reads and answers some hundred dicts at a time. An empty context gives the empty answer.

        Raises:
            UserError: An input or option is not valid; the message names the item of several.
        """
        values = {name: options.pop(name) for name in OPTION_NAMES if name in options}
        given = inputs_of(inputs, options)
        top_k = values.pop("top_k", None)
        chosen = AnswerOptions(top_k=self.options.top_k if top_k is None else top_k, **values).over(self.options)
        if len(given) == 1 and isinstance(given[0], Iterator) and question is None and context is None:
            chosen.resolve(self.max_positions, self.encoder.template.special_tokens)
            return self._answered_in_turn(given[0], chosen)
        pairs, single = pairs_of(given, question, context)
        results = list(self._shown(pairs, chosen, None if single else 1))
        return results[0] if single else results

    def _answered_in_turn(self, items: Iterator[Any], options: AnswerOptions) -> Iterator[Any]:
        """Yield the answers to dicts, of which no more are read than are answered together."""
        first = 1
        while some := list(islice(items, ROWS_AT_ONCE)):
            pairs, mistake = [], None
            try:
                for number, item in enumerate(some, first):
                    pairs.append(pair_of(item, number))
            except UserError as error:
                mistake = error
            yield from self._shown(pairs, options, first)
            if mistake is not None:
                raise mistake
            first += len(some)

    def _shown(self, pairs: list[tuple[Any, Any]], options: AnswerOptions, first: int | None) -> Iterator[Any]:
        """Yield the answers to pairs up to one that is rejected, whose number counts from `first` unless it is None.

        Raises:
            UserError: A pair is rejected.
        """
        for number, (pair, answers) in enumerate(zip(pairs, self.answer_pairs(pairs, options), strict=True)):
            if isinstance(answers, str):
                raise UserError(answers if first is None else f"{PLACE.format(first + number)}{answers}")
            yield ShownAnswers(answers, *pair) if options.is_list else ShownAnswer(answers[0], *pair)

    def rank(
        self,
        question: str,
        documents: Sequence[str] | PassageIndex,
        top_k: int = 10,
        answers_per_document: int | None = None,
        first: int | None = None,
        **options: Any,
    ) -> list[RankedAnswer]:
        """Find the answers to a question in several documents, in one ranking; see `answer.ranking`.

        Args:
            question: The question.
            documents: The texts. Those that are empty or white space have no answers. To search the same texts with
                `first` for many questions, make their `PassageIndex` once.
            top_k: Most answers; with evidence, 1 sets no limit.
            answers_per_document: Most answers from one document; None sets no limit.
            first: Read only this many passages, those that fit the question best by BM25; see `answer.passages`. How
                well a passage fits also counts in the ranking. None reads all documents as a whole.
            options: Other fields of `AnswerOptions`, such as `max_answer_len=10` or `evidence=True`.

        Returns:
            Answers, best first. If the options allow no answer, it is among them, with its probability; with evidence
            it is the only result if no passage supports an answer.

        Raises:
            UserError: An option, the question or a document is not valid; the message names the document.
            MissingExtraError: `first` needs the package `bm25s`, which is not installed.

        Examples:
            >>> ask.rank("Who paid for the bell?", [chronicle, minutes], top_k=2)
            [{'score': 0.61, 'start': 106, 'end': 114, 'answer': 'Ane Skou', 'document': 0, 'sentence': ...}, ...]
        """
        check_arguments({name: value for name, value in options.items() if name not in OPTION_NAMES}, OPTION_NAMES)
        if isinstance(documents, str):
            raise UserError("documents must be a list of texts; received a single text: pass [text]")
        texts = listed("documents", documents.documents if isinstance(documents, PassageIndex) else documents)
        if not texts:
            raise UserError("documents must hold at least one text; received none: pass the texts to search")
        if (problem := text_problem(question, "")) is not None:
            raise UserError(problem)
        ranking([], top_k, answers_per_document)  # refuses numbers before anything is computed
        asked = self._resolved(AnswerOptions(top_k=top_k, **options))
        overlap = DEFAULT_OVERLAP if asked.overlap_threshold is None else asked.overlap_threshold
        if first is None:
            passages = whole_documents(texts)
        else:
            passages = (documents if isinstance(documents, PassageIndex) else PassageIndex(texts)).best(question, first)
        with_no_answer, threshold = bool(asked.handle_impossible_answer), asked.null_threshold
        evidence, most = bool(asked.evidence), asked.most
        # Answers are compared with no answer in their document, whether or not it is a result. Evidence and
        # answers that do not overlap are chosen below, from as many candidates as for one document.
        asked = replace(
            asked,
            top_k=None,
            handle_impossible_answer=True,
            null_threshold=threshold if with_no_answer else 0.0,
            evidence=False,
            overlap_threshold=1.0,
        )
        limits: tuple[int | None, int | None, float | None] = (
            (None, None, None) if evidence else (top_k, answers_per_document, overlap)
        )
        margin = MARGIN if evidence else None
        found: list[list[Answer]] = []
        for begin in range(0, len(passages), ROWS_AT_ONCE):
            read = passages[begin : begin + ROWS_AT_ONCE]
            pairs = [(question, texts[document][start:end]) for document, start, end, _ in read]
            for (document, start, _, _), answers in zip(
                read, self.answer_pairs(pairs, asked, calibrated=False), strict=True
            ):
                if isinstance(answers, str):
                    raise UserError(f"document {document + 1}: {answers}")
                for answer in answers:
                    if answer["answer"]:
                        answer["start"] += start
                        answer["end"] += start
                found.append(usable(answers, limits[0], limits[2], margin))
        ranked, no_answer = ranking(
            found,
            *limits,
            asked.calibration,
            passages=passages,
            margin=margin,
            above_no_answer=evidence and with_no_answer,
        )
        chosen: dict[int, list[Answer]] = {}
        for document, answer, score in ranked:
            chosen.setdefault(document, []).append({**answer, "score": score})
        results: list[RankedAnswer] = []
        for document, answers in chosen.items():
            text = texts[document]
            if evidence:
                quoted = evidence_of(text, answers, overlap)[:answers_per_document]
            else:
                quoted = [with_sentence(text, answer) for answer in answers]
            results += [{**quote, "document": document} for quote in quoted]
        results.sort(key=lambda result: -result["score"])
        if with_no_answer and not (evidence and results):
            place = sum(result["score"] >= no_answer for result in results)
            results.insert(place, {**with_sentence("", no_answer_of(no_answer)), "document": None})
        return results[:most]

    def windows(self, question: str, documents: Sequence[str], options: AnswerOptions) -> int:
        """Return how many windows the model reads to answer a question in documents.

        Args:
            question: The question.
            documents: The texts.
            options: See `answer_pairs`.

        Raises:
            UserError: The options do not fit the model.
        """
        asked, windows = self._resolved(options), 0
        for begin in range(0, len(documents), ROWS_AT_ONCE):
            pairs = [(question, text) for text in documents[begin : begin + ROWS_AT_ONCE]]
            windows += prepare(pairs, asked, self.encoder, self.max_windows).windows
        return windows

    def answer_pairs(
        self, pairs: Sequence[tuple[Any, Any]], options: AnswerOptions, *, calibrated: bool = True
    ) -> list[Result]:
        """Answer E pairs of a question and a context together.

        Args:
            pairs: The pairs [E].
            options: Options for all of them; None in them means the answerer's own, except for `top_k`.
            calibrated: Use the model's calibration. `ranking` takes scores without it, and applies it itself.

        Returns:
            For each pair its answers, best first and at least one, or the reason why it was rejected.

        Raises:
            UserError: The options do not fit the model.
        """
        options = self._resolved(options)
        options = options if calibrated else replace(options, calibration=None)
        prepared = prepare(pairs, options, self.encoder, self.max_windows)
        spans = best_spans(self.predict, [prepared.job])[0] if prepared.job else None
        return results_of(prepared, spans)

    def _resolved(self, options: AnswerOptions) -> AnswerOptions:
        """Return options with a value for each; see `AnswerOptions.resolve`."""
        return options.over(self.options).resolve(self.max_positions, self.encoder.template.special_tokens)
