"""`qa_fast.SquadMetrics`: exact match and F1 at the end of each epoch, visible to Keras' other callbacks."""

from __future__ import annotations

from typing import Any

import keras

from qa_fast.errors import UserError
from qa_fast.infer.keras_engine import KerasEngine
from qa_fast.keras_model.span_model import SpanModel
from qa_fast.scoring.evaluation import evaluate_split
from qa_fast.scoring.options import EvaluateConfig, are_few
from qa_fast.scoring.rules import AUTO, SQUAD
from qa_fast.shards import Split


class SquadMetrics(keras.callbacks.Callback):
    """Scores a split after each epoch and adds `val_exact_match` and `val_f1` (percent) to the epoch's logs.

    The values are the metrics of whole answers, as `qa-fast evaluate` computes them: SQuAD's, or those for the script
    of the documents; then `val_squad_exact_match` and `val_squad_f1` are SQuAD's. Fewer than 1,000 questions are scored
    in float32. Keras runs callbacks in the order of the list: put this one before those that watch its values. `fit`
    returns them in its history.

    Args:
        split: A split with questions, documents and answers, made with the model's tokenizer.
        max_examples: Score a random sample of this many examples, the same each time; None scores all.
        seed: Seed of that sample.
        metric: See `qa_fast.scoring.options.EvaluateConfig.metric`.

    Raises:
        UserError: The split cannot be scored, the model is not a `SpanModel`, or it has another tokenizer.

    Examples:
        >>> scores = qa_fast.SquadMetrics(qa_fast.open_shards("shards").split("validation"))
        >>> stop = keras.callbacks.EarlyStopping(monitor="val_f1", mode="max")
        >>> model.fit(train, epochs=5, callbacks=[scores, stop])
    """

    def __init__(self, split: Split, max_examples: int | None = None, *, seed: int = 0, metric: str = AUTO) -> None:
        super().__init__()
        if split.examples is None or split.contexts is None:
            raise UserError(
                f"a split must hold questions, documents and answers to be scored; {split.name!r} does not: pass "
                "another, such as validation"
            )
        self.split, self.max_examples, self.seed, self.metric = split, max_examples, seed, metric
        self._precision = "float32" if are_few(len(split.examples), max_examples) else None
        self._engine: KerasEngine | None = None

    def set_model(self, model: Any) -> None:
        """See Keras."""
        super().set_model(model)
        if not isinstance(model, SpanModel):
            raise UserError(
                f"SquadMetrics needs a qa_fast.SpanModel; received {type(model).__name__}: pass it to the fit of one"
            )
        if self._engine is None or self._engine.model is not model.network:
            encoder = model.text_encoder()
            if self.split.tokenizer_hash not in (None, encoder.tokenizer_hash):
                raise UserError(
                    f"the split must be made with the model's tokenizer; {self.split.name!r} was made with another "
                    f"({str(self.split.tokenizer_hash)[:12]}, the model has {encoder.tokenizer_hash[:12]}): featurize "
                    "with the model that you train"
                )
            self._engine = KerasEngine(model.network, precision=self._precision)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Score the split."""
        assert self._engine is not None, "Keras sets the model first"
        config = EvaluateConfig(max_examples=self.max_examples, seed=self.seed, metric=self.metric)
        config = config.over(self.model.source.answering)
        result = evaluate_split(self._engine.predict, self.split, config)
        if logs is not None:
            logs["val_exact_match"], logs["val_f1"] = result.exact_match, result.f1
            if result.metric != SQUAD:
                logs["val_squad_exact_match"], logs["val_squad_f1"] = result.squad_exact_match, result.squad_f1
