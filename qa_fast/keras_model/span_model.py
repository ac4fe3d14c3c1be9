"""`qa_fast.SpanModel`: a Keras model for TensorFlow and JAX.

It wraps the network of `model.encoder` and adds what Keras' training loop needs: a dict as input, a loss, dropout that
counts its steps, and configuration and files to save. It computes the same loss and the same dropout masks as `qa-fast
train`, but at the speed of Keras: an update takes several operations for each weight instead of one compiled function.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
from keras import ops

from qa_fast.answer.settings import ANSWERING, read_settings, write_settings
from qa_fast.encode import TextEncoder, load_encoder
from qa_fast.errors import UserError, first_line, shown
from qa_fast.hub.facts import METRICS, TRAINING
from qa_fast.keras_model.data import (
    IDS,
    MASK,
    TYPES,
    check_data,
    check_inputs,
    inputs_of,
    label_weights,
    labels_of,
    sample_weights_of,
)
from qa_fast.keras_model.loops import keeping_weights
from qa_fast.keras_model.source import ModelFiles, files_of
from qa_fast.model import encoder
from qa_fast.model.checkpoint import LoadReport, checked_config, load_weights, save_model
from qa_fast.model.config import EncoderConfig
from qa_fast.model.dropout import traced_key
from qa_fast.model.families import read_encoder_config
from qa_fast.model.islands import parts_mode
from qa_fast.model.parts import MASKED
from qa_fast.model.precision import choose_precision
from qa_fast.progress import on_stderr
from qa_fast.sources import resolve_model
from qa_fast.store import local_path
from qa_fast.train.optimizer import span_loss

START, END = "start_logits", "end_logits"
POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


@keras.saving.register_keras_serializable(package="qa_fast")
class SpanModel(keras.Model):
    """An encoder that scores every token as an answer's start and end, with `compile`, `fit`, `evaluate`, `predict`.

    x is a dict with `input_ids` and `attention_mask` int32[B, L] (1 for tokens), `token_type_ids` int32[B, L] if the
    model has types (default: zeros), and the labels `start_positions` and `end_positions` int32[B], which may also be
    passed as y, as a dict or a pair. A label outside its row's tokens does not count.

    The output is a dict with `start_logits` and `end_logits` float32[B, L], named as in transformers; losses and
    metrics are passed under these names. Outside training the logits of padding are -1e9, so that padding has
    probability 0. In training they are unchanged, because the loss of transformers and of `qa-fast train` is over all L
    positions; the loss of `evaluate` is over each row's own tokens, like that of validation in `qa-fast train`.

    Args:
        config: The contents of a Hugging Face config.json. The weights are random: `from_pretrained` loads a model, and
            only `fit` or loaded weights make this one usable (see `check_trained`).
        precision: "float32", "bfloat16" or "float16" for computing; weights are always float32. None follows the global
            dtype policy of Keras. "auto" is measured on this device.
        dropout: Rate of all dropouts, instead of the model's rates.
        seed: Seed for dropout masks and for a head that the checkpoint lacks. The masks equal those of `qa-fast train`
            with that seed. The number of the step is a variable and is saved with the model.
        files: The tokenizer's files by name.
        frozen: What is not trained: "model", "network", parts such as "block_0", weights such as "embeddings/words".
        name: Name of the Keras model.

    Attributes:
        network: The wrapped `model.encoder.EncoderModel`, for engines and exports.
        source: The files that are saved with the weights.
        report: How a checkpoint's weights were used; None if no checkpoint was read.

    Examples:
        >>> train = qa_fast.open_shards("shards").split("train")
        >>> model = qa_fast.SpanModel.from_pretrained("minilm")
        >>> model.compile("adamw")
        >>> model.fit(train.to_tf_dataset(batch_size=16), epochs=2)
        >>> model.save_pretrained("model")
    """

    def __init__(
        self,
        config: dict[str, Any],
        *,
        precision: str | None = None,
        dropout: float | None = None,
        seed: int = 0,
        files: dict[str, bytes] | None = None,
        frozen: Sequence[str] = (),
        name: str | None = None,
    ) -> None:
        if not isinstance(config, Mapping):
            raise UserError(
                f"config must be the contents of a config.json, as a dict; received {shown(config)}: open a model with "
                "SpanModel.from_pretrained"
            )
        chosen = _precision(precision)
        super().__init__(name=name, dtype=POLICIES[chosen])
        self.source = ModelFiles(dict(config), dict(files or {}))
        self.dropout, self.seed = dropout, seed
        self.report: LoadReport | None = None
        self._new_head = False
        encoder_config = read_encoder_config(dict(config))
        self.network = encoder.EncoderModel(
            encoder_config if dropout is None else encoder_config.with_dropout(dropout), chosen, name="network"
        )
        # Counts the forward passes in training, in the same way on all replicas of a distribution strategy.
        self._passes = self.add_weight(
            (), "zeros", dtype="int", trainable=False, aggregation="only_first_replica", name="passes"
        )
        self._jit: bool | str = "auto"
        self.built = True
        parts = self._freezable()
        unknown = set(frozen) - parts.keys()
        if unknown:
            raise UserError(
                f"frozen must name parts or weights of the model; received {shown(sorted(unknown))}: choose from "
                f"{', '.join(list(parts)[:4])}, …"
            )
        if frozen:
            for name, part in parts.items():
                part.trainable = name not in frozen

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, precision: str | None = None, dropout: float | None = None, seed: int = 0
    ) -> SpanModel:
        """Load a model.

        Args:
            path: A model folder, a Hub id or "minilm". A checkpoint without a span head gets a new one,
                which `fit` must train before the model is used (see `check_trained`).
            precision: See `SpanModel`, as for the other arguments.
            dropout: See `SpanModel`.
            seed: See `SpanModel`.

        Raises:
            UserError: The path holds no usable model, or there is no such precision.
        """
        folder = resolve_model(path)
        checked_config(folder, new_head=True)  # before anything is built
        source = ModelFiles.of_folder(folder)
        model = cls(source.config, precision=precision, dropout=dropout, seed=seed)
        model.source = source
        model.report = load_weights(model.network, folder, seed=seed)
        model._new_head = bool(model.report.made)
        return model

    @property
    def config(self) -> EncoderConfig:
        """The encoder's configuration."""
        return self.network.config

    def _freezable(self) -> dict[str, Any]:
        """Return everything with the attribute `trainable` by name, layers before what they hold."""
        return {"model": self, "network": self.network, **self.network.freezable}

    def text_encoder(self) -> TextEncoder:
        """Return the model's tokenizer.

        Raises:
            UserError: The model was made without a tokenizer.
        """
        with self.source.as_folder() as folder:
            return load_encoder(folder)

    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Score a batch, see `call`."""
        # Checked here, too, because Keras turns an error of `call` into many lines.
        if not isinstance(x, keras.KerasTensor):
            check_inputs(x, self.config)
        return super().__call__(x, *args, **kwargs)

    def call(self, x: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Score a batch.

        Args:
            x: Features, see `SpanModel`; labels in it are ignored.
            training: Apply dropout, count the pass, and do not mask the logits of padding.

        Returns:
            `start_logits` and `end_logits`, float32[B, L].

        Raises:
            UserError: See `data.check_inputs`.
        """
        inputs = inputs_of(x, self.config)
        key = self._next_key(ops.shape(inputs.ids)[0]) if training else None
        start, end = self.network.encoder(inputs.ids, inputs.mask, inputs.types, key)
        if not training:
            start, end = (ops.where(inputs.mask, logits, MASKED) for logits in (start, end))
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
        """Configure training like `keras.Model.compile`.

        Args:
            optimizer: As in Keras. `gradient_accumulation_steps` is supported; in float16 Keras wraps the optimizer in
                a `LossScaleOptimizer`.
            loss: None is the model's own loss, the mean of the mean cross-entropies of starts and ends. Another loss
                receives y and y_pred as dicts with `start_logits` and `end_logits`.
            jit_compile: True compiles the whole step with XLA, again for each width; "parts" uses fused kernels for
                element-wise operations (TensorFlow only); False compiles nothing. "auto" is True on JAX and on GPUs,
                and False for TensorFlow on CPUs.
            options: Other options of Keras; metrics are named by `start_logits` and `end_logits`.

        Raises:
            UserError: "parts" was asked for on another backend.
        """
        tensorflow = keras.backend.backend() == "tensorflow"
        if jit_compile == "parts" and not tensorflow:
            raise UserError(
                f"jit_compile must be 'auto' or True where KERAS_BACKEND is {keras.backend.backend()}; received "
                "'parts': choose one of them"
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
        """Return the loss of a batch, float32 scalar; see `SpanModel`.

        Raises:
            UserError: There are no labels.
        """
        labels = labels_of(x, y)
        if self._compile_loss is not None:
            return super().compute_loss(x, _named(labels), y_pred, sample_weight, training)
        inputs, replica = inputs_of(x, self.config), _replica_context()
        lengths = ops.sum(ops.cast(inputs.mask, "int32"), axis=1)

        def over_replicas(count: Any) -> Any:
            return replica.all_reduce("SUM", count) if replica else count

        rows = sample_weights_of(sample_weight)
        weights = [label_weights(side, lengths, row, over_replicas) for side, row in zip(labels, rows, strict=True)]
        highest = ops.shape(inputs.ids)[1] - 1
        starts, ends = (ops.clip(side, 0, highest) for side in labels)
        return span_loss(y_pred[START], y_pred[END], starts, ends, *weights)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """See Keras; labels have the names of the logits."""
        return super().compute_metrics(x, _named(labels_of(x, y)), y_pred, sample_weight)

    def check_trained(self) -> None:
        """Refuse a model without weights, or with a head that was never trained, which would answer at random.

        Raises:
            UserError: No weights were loaded, or the checkpoint had no head; and no batch was trained since. A file of
                Keras keeps these facts.
        """
        if self._is_blank():
            raise UserError(
                "a model to read with, score or save must have weights; received one that was made from a config alone"
                ": open a model with SpanModel.from_pretrained, or call fit first"
            )
        if self._new_head and not int(self._passes):
            made = "it was saved untrained" if self.report is None else self.report.message()
            raise UserError(
                "a model to read with, score or save must have a question answering head that was trained; received a "
                f"new one ({made}): call fit first, or open a model that was fine-tuned"
            )

    def export(self, filepath: str | Path, format: str = "tf_saved_model", **options: Any) -> None:
        """Write the network for inference; see Keras, and `qa-fast export` for ONNX and for files without copies.

        The export contains plain operations, because kernels of this process do not exist in another. Its inputs are
        int32[B, L] of any B and L, unless `input_signature` says otherwise.

        Args:
            filepath: The folder or file.
            format: "tf_saved_model", or another format of Keras, which may need packages of its own.
            options: Other options of Keras.

        Raises:
            UserError: See `check_trained`, or the format cannot be written here.
        """
        self.check_trained()
        if options.get("input_signature") is None:
            names = (IDS, MASK, *([TYPES] if self.config.takes_types else []))
            specs = {name: keras.InputSpec(shape=(None, None), dtype="int32", name=name) for name in names}
            options["input_signature"] = [specs]
        try:
            with self.network.run_part.tracing(parts=parts_mode(False)):
                super().export(filepath, format=format, **options)
        except (ImportError, NotImplementedError, ValueError) as error:
            raise UserError(
                f"format must be one that Keras can write here; received {shown(format)}: {first_line(error)[:200]} "
                "(qa-fast export writes ONNX, .keras and SavedModel)"
            ) from None

    def summary(self, *args: Any, expand_nested: bool = True, **options: Any) -> None:
        """See Keras; the layers of the network are shown, too."""
        super().summary(*args, expand_nested=expand_nested, **options)

    def fit(self, x: Any = None, y: Any = None, *args: Any, **options: Any) -> Any:
        """See `keras.Model.fit`, and `SpanModel` for x and y; `sample_weight` needs y.

        A threshold for no answer and a calibration that the model was loaded with are dropped, because they belong to
        the old weights.
        """
        check_data(x, y, options)
        self._begin_training()
        with keeping_weights(self):
            return super().fit(x, y, *args, **options)

    def _begin_training(self) -> None:
        """Drop what belongs to the old weights, give a model without weights random ones, and say so."""
        answering = replace(self.source.answering, null_threshold=None, calibration=None)
        self.source = replace(self.source, answering=answering)
        if self._is_blank():
            self.network.initialize(self.seed)
            on_stderr(
                "SpanModel: training begins from random weights; SpanModel.from_pretrained loads those of a model"
            )

    def _is_blank(self) -> bool:
        """Return whether all matrices are 0, as in a model that was made from a config alone."""
        matrices = [weight for weight in self.network.by_path.values() if len(weight.shape) > 1]
        matrices.sort(key=lambda weight: math.prod(weight.shape))  # one with a value other than 0 is soon found
        return not any(bool(ops.any(ops.not_equal(weight, 0))) for weight in matrices)

    def train_on_batch(self, x: Any, y: Any = None, *args: Any, **options: Any) -> Any:
        """See `keras.Model.train_on_batch`, and `fit`."""
        check_data(x, y, options)
        self._begin_training()
        return super().train_on_batch(x, y, *args, **options)

    def test_on_batch(self, x: Any, y: Any = None, *args: Any, **options: Any) -> Any:
        """See `keras.Model.test_on_batch`, and `evaluate`."""
        check_data(x, y, options)
        self.check_trained()
        return super().test_on_batch(x, y, *args, **options)

    def predict_on_batch(self, x: Any) -> Any:
        """See `keras.Model.predict_on_batch`, and `predict`."""
        check_data(x)
        self.check_trained()
        return super().predict_on_batch(x)

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **options: Any) -> Any:
        """See `keras.Model.evaluate`, and `SpanModel` for x and y; `sample_weight` needs y."""
        check_data(x, y, options)
        self.check_trained()
        with keeping_weights(self):
            return super().evaluate(x, y, *args, **options)

    def predict(self, x: Any = None, *args: Any, **options: Any) -> Any:
        """See `keras.Model.predict`: returns a dict with `start_logits` and `end_logits`, float32[rows, L] each.

        Batches of several widths return ragged tensors on TensorFlow; on JAX all batches must have one width.

        Raises:
            UserError: They do not, or see `check_trained`.
        """
        check_data(x)
        self.check_trained()
        try:
            with keeping_weights(self):
                return super().predict(x, *args, **options)
        except ValueError as error:
            if "concatenation axis" not in str(error):
                raise
            raise UserError(
                f"predict needs batches of one width where KERAS_BACKEND is {keras.backend.backend()}; received "
                "several: use batching='fixed', or to_numpy()"
            ) from None

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json, model.safetensors and the tokenizer's files, as transformers reads them.

        The options of answering that the model was loaded with are written, too.
        `AutoModelForQuestionAnswering.from_pretrained`, `Answerer.from_pretrained` and `qa-fast` open the folder. Files
        with those names in an existing folder are replaced. Records of training stay, and a message says so.

        Raises:
            UserError: See `check_trained`, or the folder cannot be written.
        """
        self.check_trained()
        path = local_path(str(folder))
        if (path / ANSWERING).exists():  # what belongs to the old weights must not outlive them if this is interrupted
            write_settings(path, replace(self.source.answering, null_threshold=None, calibration=None))
        with self.source.as_folder() as source:
            save_model(self.network, path, source, replace=True)
        write_settings(path, self.source.answering)
        if (path / TRAINING / METRICS).exists():
            on_stderr(
                f"SpanModel: {TRAINING}/ and the card in {str(path)!r} describe the weights that were replaced: remove "
                "both before you push the model"
            )

    def get_config(self) -> dict[str, Any]:
        """Return what `from_config` makes the same model from, without weights and tokenizer."""
        return {
            "config": self.source.config,
            "precision": self.network.precision,
            "dropout": self.dropout,
            "seed": self.seed,
            "frozen": [name for name, part in self._freezable().items() if not part.trainable],
            "name": self.name,
            "new_head": self._new_head,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> SpanModel:
        """See Keras."""
        arguments = dict(config)
        new_head = arguments.pop("new_head", False)
        model = cls(**arguments)
        model._new_head = new_head
        return model

    def save_assets(self, folder: str) -> None:
        """See Keras; writes the tokenizer's files."""
        self.source.write(Path(folder))

    def load_assets(self, folder: str) -> None:
        """See Keras; reads the tokenizer's files."""
        self.source = ModelFiles(self.source.config, files_of(Path(folder)), read_settings(Path(folder)))


def _precision(asked: str | None) -> str:
    """Return the dtype to compute in."""
    if asked is None:
        asked = keras.config.dtype_policy().compute_dtype
        if asked not in POLICIES:
            raise UserError(
                f"the global dtype policy must be float32, mixed_bfloat16 or mixed_float16; received {asked}: set one "
                "of those, or pass precision"
            )
    return choose_precision(asked).value


def _named(labels: tuple[Any, Any]) -> dict[str, Any]:
    return {START: labels[0], END: labels[1]}


def _replica_context() -> Any:
    """Return TensorFlow's replica context if several replicas of a `tf.distribute` strategy share a step, else None."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return context if context is not None and context.num_replicas_in_sync > 1 else None
