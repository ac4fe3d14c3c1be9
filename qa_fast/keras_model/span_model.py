"""`qa_fast.SpanModel`: the model as Keras users know one, on TensorFlow and on JAX.

It holds the network of `model.encoder` and adds what Keras' own loop asks for: a dict as input, a loss, dropout that
counts its steps, configs and files to save. What it computes is what `qa-fast train` computes: the same loss, the same
masks. Its speed is Keras' own: an update is a few operations a weight, where the trainer's is one compiled function.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
from keras import ops

from qa_fast.encode import TextEncoder, load_encoder
from qa_fast.errors import UserError
from qa_fast.keras_model.data import (
    TOO_LONG,
    check_inputs,
    inputs_of,
    label_weights,
    labels_of,
    sample_weights_of,
    too_long,
)
from qa_fast.keras_model.source import Source, files_of
from qa_fast.model import encoder
from qa_fast.model.checkpoint import LoadReport, checked_config, load_weights, save_model
from qa_fast.model.config import EncoderConfig
from qa_fast.model.dropout import traced_key
from qa_fast.model.families import read_encoder_config
from qa_fast.model.islands import parts_mode
from qa_fast.model.parts import MASKED
from qa_fast.model.precision import choose_precision
from qa_fast.sources import resolve_model
from qa_fast.train.optimizer import span_loss

START, END = "start_logits", "end_logits"
POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


@keras.saving.register_keras_serializable(package="qa_fast")
class SpanModel(keras.Model):
    """An encoder that scores every token as an answer's start and end, with `compile`, `fit`, `evaluate`, `predict`.

    x is a dict: `input_ids` and `attention_mask` int32[B, L] (1 where tokens are), `token_type_ids` int32[B, L] where
    the model has types (zeros without), and the labels `start_positions`, `end_positions` int32[B], which may also be
    y, as a dict or a pair. A label outside its row's tokens does not count.

    The model gives a dict, `start_logits` and `end_logits` float32[B, L]: the names of transformers' output, which the
    tutorial's code takes from it, and names that losses and metrics can be given by. But for training, logits of
    padding are -1e9, so that they never win and every probability there is 0. In training they stay as they are, since
    the loss of transformers, and of `qa-fast train`, is over all L positions; the loss of `evaluate`, as the trainer's
    in validation, is over each row's own tokens.

    Args:
        config: What a Hugging Face config.json says; see `from_pretrained` for a model with weights.
        precision: "float32", "bfloat16" or "float16", of what is computed; weights are float32 always. None follows
            `keras.mixed_precision`'s global policy. "auto" is measured on this device.
        dropout: Rate of all dropouts instead of the model's own.
        seed: Of the dropout masks, and of a head that a checkpoint lacks. The masks are those of `qa-fast train` with
            that seed: new each step, the same each time. The number of the step is a variable and saved with the model.
        files: The tokenizer's files by name.
        name: Of the Keras model.

    Attributes:
        network: The `model.encoder.EncoderModel` in it, for engines and exports.
        source: What is saved along with the weights.
        report: What became of a checkpoint's weights; None where none was read.
    """

    def __init__(
        self,
        config: dict[str, Any],
        *,
        precision: str | None = None,
        dropout: float | None = None,
        seed: int = 0,
        files: dict[str, bytes] | None = None,
        name: str | None = None,
    ) -> None:
        chosen = _precision(precision)
        super().__init__(name=name, dtype=POLICIES[chosen])
        self.source = Source(dict(config), dict(files or {}))
        self.dropout, self.seed = dropout, seed
        self.report: LoadReport | None = None
        parts = read_encoder_config(dict(config))
        self.network = encoder.EncoderModel(
            parts if dropout is None else parts.with_dropout(dropout), chosen, name="network"
        )
        # Of the forward passes in training. Replicas of a distribution strategy count alike.
        self._passes = self.add_weight(
            (), "zeros", dtype="int", trainable=False, aggregation="only_first_replica", name="passes"
        )
        self._jit: bool | str = "auto"
        self.built = True

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, precision: str | None = None, dropout: float | None = None, seed: int = 0
    ) -> SpanModel:
        """Load a model.

        Args:
            path: A model folder, a Hub id or "minilm". A checkpoint without a span head gets a fresh one.
            precision: See `SpanModel`, as for the others.
            dropout: Rate.
            seed: An integer.

        Raises:
            UserError: No usable model there, or no such precision.
        """
        folder = resolve_model(str(path))
        checked_config(folder)  # before anything is built
        source = Source.of_folder(folder)
        model = cls(source.config, precision=precision, dropout=dropout, seed=seed, files=source.files)
        model.report = load_weights(model.network, folder, seed=seed)
        return model

    @property
    def config(self) -> EncoderConfig:
        """The encoder's parts."""
        return self.network.config

    def text_encoder(self) -> TextEncoder:
        """The model's tokenizer.

        Raises:
            UserError: The model was made without one.
        """
        with self.source.as_folder() as folder:
            return load_encoder(folder)

    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Score a batch, see `call`."""
        # Here, too, since Keras makes many lines of what `call` raises.
        if not isinstance(x, keras.KerasTensor):
            check_inputs(x, self.config)
        return super().__call__(x, *args, **kwargs)

    def call(self, x: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Score a batch.

        Args:
            x: Features, see `SpanModel`; labels in it are left alone.
            training: Drop, count the pass, and leave the logits of padding.

        Returns:
            `start_logits` and `end_logits`, float32[B, L].

        Raises:
            UserError: See `data.check_inputs`.
        """
        inputs = inputs_of(x, self.config)
        key = self._next_key(ops.shape(inputs.ids)[0]) if training else None
        start, end = self.network.encoder(inputs.ids, inputs.there, inputs.types, key)
        if not training:
            start, end = (ops.where(inputs.there, logits, MASKED) for logits in (start, end))
        return {START: start, END: end}

    def _next_key(self, rows: Any) -> Any:
        replica = _replica_context()
        first_row = replica.replica_id_in_sync_group * rows if replica else 0
        key = traced_key(self.seed, self._passes.value, first_row)
        self._passes.assign_add(1)
        return key

    def compile(
        self, optimizer: Any = "adam", loss: Any = None, *, jit_compile: bool | str = "auto", **options: Any
    ) -> None:
        """Configure training, as `keras.Model.compile`.

        Args:
            optimizer: As in Keras; its `gradient_accumulation_steps` work, and for float16 it is wrapped in a
                `LossScaleOptimizer`.
            loss: None is the model's own, the mean of the mean cross-entropies of starts and ends. Another one gets y
                and y_pred as dicts with `start_logits` and `end_logits`.
            jit_compile: True compiles a whole step by XLA, for every width anew; "parts" what lies between matrix
                products (TensorFlow only); False nothing. "auto" is True on JAX and GPUs, False for TensorFlow on CPUs.
            options: All others of Keras; metrics are named by `start_logits` and `end_logits`.

        Raises:
            UserError: "parts" is asked for where there are none.
        """
        tensorflow = keras.backend.backend() == "tensorflow"
        if jit_compile == "parts" and not tensorflow:
            raise UserError(
                f"jit_compile must be 'auto' or True where KERAS_BACKEND is {keras.backend.backend()}; received 'parts'"
            )
        self._jit = jit_compile
        self.network.run_part.parts = parts_mode(jit_compile == "parts")
        super().compile(optimizer, loss, jit_compile=False if jit_compile == "parts" else jit_compile, **options)

    def get_compile_config(self) -> dict[str, Any]:
        """See Keras."""
        config = super().get_compile_config()
        return {**config, "jit_compile": self._jit} if config else {}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """See Keras."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None:
            self.optimizer.build(self.trainable_variables)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """The loss of a batch, float32 scalar; see `SpanModel`.

        Raises:
            UserError: There are no labels.
        """
        labels = labels_of(x, y)
        if self._compile_loss is not None:
            return super().compute_loss(x, _named(labels), y_pred, sample_weight, training)
        inputs, replica = inputs_of(x, self.config), _replica_context()
        lengths = ops.sum(ops.cast(inputs.there, "int32"), axis=1)

        def over_replicas(count: Any) -> Any:
            return replica.all_reduce("SUM", count) if replica else count

        rows = sample_weights_of(sample_weight)
        weights = [label_weights(side, lengths, row, over_replicas) for side, row in zip(labels, rows, strict=True)]
        highest = ops.shape(inputs.ids)[1] - 1
        starts, ends = (ops.clip(side, 0, highest) for side in labels)
        return span_loss(y_pred[START], y_pred[END], starts, ends, *weights)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """See Keras; labels are told by the names of the logits."""
        return super().compute_metrics(x, _named(labels_of(x, y)), y_pred, sample_weight)

    def export(self, *args: Any, **options: Any) -> None:
        """See Keras. Parts are exported as they stand: kernels of this process are nothing to another."""
        with self.network.run_part.tracing(parts=parts_mode(False)):
            super().export(*args, **options)

    def summary(self, *args: Any, expand_nested: bool = True, **options: Any) -> None:
        """See Keras; the network's parts are shown, too."""
        super().summary(*args, expand_nested=expand_nested, **options)

    def fit(self, x: Any = None, y: Any = None, *args: Any, **options: Any) -> Any:
        """See `keras.Model.fit`, and `SpanModel` for x and y; `sample_weight` needs y."""
        _check_weights(y, options)
        with _kept_whole(self):
            return super().fit(x, y, *args, **options)

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **options: Any) -> Any:
        """See `keras.Model.evaluate`, and `SpanModel` for x and y; `sample_weight` needs y."""
        _check_weights(y, options)
        with _kept_whole(self):
            return super().evaluate(x, y, *args, **options)

    def predict(self, *args: Any, **options: Any) -> Any:
        """See `keras.Model.predict`: a dict, `start_logits` and `end_logits`, float32[rows, L] each.

        Batches of several widths come back as ragged tensors on TensorFlow; on JAX they must be of one width.

        Raises:
            UserError: They are not.
        """
        try:
            with _kept_whole(self):
                return super().predict(*args, **options)
        except ValueError as error:
            if "concatenation axis" not in str(error):
                raise
            raise UserError(
                f"predict must be given batches of one width where KERAS_BACKEND is {keras.backend.backend()}; "
                "received several: take batching='fixed', or to_numpy()"
            ) from None

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json, model.safetensors and the tokenizer's files, as transformers reads them.

        What `AutoModelForQuestionAnswering.from_pretrained`, `Answerer.from_pretrained` and `qa-fast` open. In a folder
        that exists, the files of those names are replaced.
        """
        with self.source.as_folder() as source:
            save_model(self.network, folder, source, replace=True)

    def get_config(self) -> dict[str, Any]:
        """What `from_config` makes the same model of, weights and tokenizer apart."""
        return {
            "config": self.source.config,
            "precision": self.network.precision,
            "dropout": self.dropout,
            "seed": self.seed,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> SpanModel:
        """See Keras."""
        return cls(**config)

    def save_assets(self, folder: str) -> None:
        """See Keras: the tokenizer's files go along."""
        self.source.write(Path(folder))

    def load_assets(self, folder: str) -> None:
        """See Keras."""
        self.source = Source(self.source.config, files_of(Path(folder)))


def _precision(asked: str | None) -> str:
    """The dtype to compute in."""
    if asked is None:
        asked = keras.config.dtype_policy().compute_dtype
        if asked not in POLICIES:
            raise UserError(
                f"the global dtype policy must be float32, mixed_bfloat16 or mixed_float16; received {asked}: set one "
                "of those, or give precision"
            )
    return choose_precision(asked).value


def _check_weights(y: Any, options: dict[str, Any]) -> None:
    if options.get("sample_weight") is not None and y is None:
        raise UserError(
            "sample_weight must come with y, since Keras drops it without; received none: give the labels as y"
        )


def _named(labels: tuple[Any, Any]) -> dict[str, Any]:
    return {START: labels[0], END: labels[1]}


def _replica_context() -> Any:
    """TensorFlow's, inside a step that several replicas of a `tf.distribute` strategy share; else None."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return context if context is not None and context.num_replicas_in_sync > 1 else None


@contextmanager
def _kept_whole(model: SpanModel) -> Iterator[None]:
    """Run a loop of Keras; whatever ends it, the model keeps its weights, and a check in a graph is a user's error.

    On JAX Keras takes the weights out of the model while it steps, and puts them back only where all went well.
    """
    jax = keras.backend.backend() == "jax"
    before: list[tuple[Any, Any]] = []
    if jax:
        optimizer = getattr(model, "optimizer", None)  # there from `compile` on
        if optimizer is not None and not optimizer.built:
            optimizer.build(model.trainable_variables)
        own = optimizer.variables if optimizer is not None else []
        # No copies, and no memory kept: a step that runs takes the buffers, held here or not.
        before = [(variable, variable.value) for variable in (*model.variables, *own, *model.metrics_variables)]
    try:
        yield
    except BaseException as error:
        if jax:
            model.jax_state_sync()
            for variable, value in before:
                if variable._value is None:
                    variable.assign(value)
            model._jax_state = None
        if isinstance(error, UserError) or TOO_LONG not in str(error):
            raise
        raise UserError(too_long(model.config, "longer ones")) from None
