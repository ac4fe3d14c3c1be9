"""Every public name works with its default arguments and plain inputs, and no new one is forgotten."""

from __future__ import annotations

import inspect
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qa_fast
from tests import sample
from tests.small_runs import authored_examples, make_model_folder


def quiet(_: str) -> None:
    pass


class World:
    """The objects that plain calls need, made when they are first used."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model = folder, model
        self.rows = authored_examples(2)
        self.question = {"question": "Who was the keeper?", "context": "Its keeper was Ane Skou."}

    @cached_property
    def data(self) -> Any:
        return qa_fast.load({"train": self.rows, "validation": self.rows}, say=quiet)

    @cached_property
    def shards(self) -> Any:
        return qa_fast.featurize(
            self.data, self.model, out=self.folder / "shards", max_length=64, doc_stride=8, say=quiet
        )

    @cached_property
    def result(self) -> Any:
        return qa_fast.evaluate(self.shards, self.model, engine="onnx", precision="float32")

    @cached_property
    def answerer(self) -> Any:
        return qa_fast.Answerer.from_pretrained(self.model, engine="onnx", precision="float32")

    @cached_property
    def featurizer(self) -> Any:
        return qa_fast.Featurizer(self.model, qa_fast.FeatureConfig(64, 8))

    @cached_property
    def built(self) -> Any:
        return qa_fast.build_shards(self.rows, self.folder / "built", str(self.model), qa_fast.FeatureConfig(64, 8))

    @cached_property
    def batch(self) -> dict[str, np.ndarray]:
        return next(iter(self.shards["train"].batches(4)))

    @cached_property
    def inputs(self) -> dict[str, np.ndarray]:
        return {name: array for name, array in self.batch.items() if "positions" not in name}

    @cached_property
    def span_model(self) -> Any:
        model = qa_fast.SpanModel.from_pretrained(self.model)
        model.compile("adam")
        return model


ENGINES = {  # these need ONNX Runtime, TensorFlow or torch
    "Answerer": lambda w: w.answerer(**w.question),
    "Answerer.rank": lambda w: w.answerer.rank(w.question["question"], [w.question["context"]]),
    "Answerer.windows": lambda w: w.answerer.windows(
        w.question["question"], [w.question["context"]], w.answerer.options
    ),
    "Answerer.answer_pairs": lambda w: w.answerer.answer_pairs([tuple(w.question.values())], w.answerer.options),
    "Answerer.from_model": lambda w: qa_fast.Answerer.from_model(w.span_model)(w.question),
    "Answerer.from_pretrained": lambda w: w.answerer(iter([w.question])).__next__(),
    "EvaluationResult": lambda w: repr(w.result),
    **{
        f"EvaluationResult.{name}": lambda w, name=name: getattr(w.result, name)
        for name in ("allow_no_answer", "null_threshold", "as_v2", "squad_exact_match", "squad_f1", "exact_match", "f1")
    },
    "EvaluationResult.metric": lambda w: w.result.metric,
    "EvaluationResult.n_best": lambda w: list(w.result.n_best()),
    "EvaluationResult.scores_of": lambda w: w.result.scores_of([None] * len(w.rows)),
    "SpanModel": lambda w: w.span_model(w.inputs),
    "SpanModel.call": lambda w: w.span_model.call(w.inputs),
    "SpanModel.check_trained": lambda w: w.span_model.check_trained(),
    "SpanModel.compile": lambda w: w.span_model.compile(),
    "SpanModel.compile_from_config": lambda w: w.span_model.compile_from_config(w.span_model.get_compile_config()),
    "SpanModel.compute_loss": lambda w: w.span_model.compute_loss(w.batch, None, w.span_model(w.inputs)),
    "SpanModel.compute_metrics": lambda w: w.span_model.compute_metrics(w.batch, None, w.span_model(w.inputs)),
    "SpanModel.config": lambda w: w.span_model.config,
    "SpanModel.evaluate": lambda w: w.span_model.evaluate(w.batch),
    "SpanModel.export": lambda w: w.span_model.export(w.folder / "export"),
    "SpanModel.fit": lambda w: w.span_model.fit(w.batch),
    "SpanModel.from_config": lambda w: qa_fast.SpanModel.from_config(w.span_model.get_config()),
    "SpanModel.from_pretrained": lambda w: qa_fast.SpanModel.from_pretrained(w.model),
    "SpanModel.get_compile_config": lambda w: w.span_model.get_compile_config(),
    "SpanModel.get_config": lambda w: w.span_model.get_config(),
    "SpanModel.predict": lambda w: w.span_model.predict(w.inputs),
    "SpanModel.predict_on_batch": lambda w: w.span_model.predict_on_batch(w.inputs),
    "SpanModel.save_pretrained": lambda w: w.span_model.save_pretrained(w.folder / "saved"),
    "SpanModel.save_assets": lambda w: w.span_model.save_assets(str(w.folder / "saved")),
    "SpanModel.load_assets": lambda w: w.span_model.load_assets(str(w.folder / "saved")),
    "SpanModel.summary": lambda w: w.span_model.summary(),
    "SpanModel.text_encoder": lambda w: w.span_model.text_encoder(),
    "SpanModel.test_on_batch": lambda w: w.span_model.test_on_batch(w.batch),
    "SpanModel.train_on_batch": lambda w: w.span_model.train_on_batch(w.batch),
    "Split.to_keras": lambda w: w.shards["train"].to_keras(batching="fixed"),
    "Split.to_tf_dataset": lambda w: w.shards["train"].to_tf_dataset(),
    "Split.to_torch": lambda w: w.shards["train"].to_torch(),
    "SquadMetrics": lambda w: qa_fast.SquadMetrics(w.shards["validation"]),
    "SquadMetrics.set_model": lambda w: w.span_model.fit(
        w.batch, callbacks=[qa_fast.SquadMetrics(w.shards["validation"])]
    ),
    "SquadMetrics.on_epoch_end": lambda w: None,  # in `fit`, see `set_model`
    "evaluate": lambda w: w.result,
}
PLAIN = {
    "Batches": lambda w: list(w.shards["train"].batches()),
    "Batches.cut": lambda w: w.shards["train"].batches().cut(0, 0),
    "Batches.features": lambda w: w.shards["train"].batches().features,
    "Batches.plan": lambda w: w.shards["train"].batches().plan(0),
    "BuildOptions": lambda w: qa_fast.BuildOptions(),
    "BuildOptions.check": lambda w: qa_fast.BuildOptions().check(),
    "BuildResult": lambda w: repr(w.built),
    "BuildResult.featurize_seconds": lambda w: w.built.featurize_seconds,
    "Dataset": lambda w: repr(w.data),
    "Dataset.get": lambda w: w.data.get("train"),
    "EvaluateConfig": lambda w: qa_fast.EvaluateConfig(),
    "EvaluateConfig.check": lambda w: qa_fast.EvaluateConfig().check(),
    "Examples": lambda w: (w.data["train"][0], w.data["train"][:2], w.data["train"]["question"]),
    "Examples.find": lambda w: w.data["train"].find(w.rows[0]["id"]),
    "Examples.rejected": lambda w: w.data["train"].rejected,
    "Examples.select": lambda w: w.data["train"].select([0, -1]),
    "Examples.to_arrow": lambda w: w.data["train"].to_arrow(),
    "Examples.to_pandas": lambda w: w.data["train"].to_pandas(),
    "Examples.train_test_split": lambda w: w.data["train"].train_test_split(),
    "FeatureConfig": lambda w: qa_fast.FeatureConfig(),
    "FeatureConfig.check": lambda w: qa_fast.FeatureConfig().check(),
    "FeatureConfig.to_dict": lambda w: qa_fast.FeatureConfig().to_dict(),
    "Featurizer": lambda w: w.featurizer(w.rows),
    "Featurizer.decides": lambda w: w.featurizer.decides,
    "Featurizer.featurize": lambda w: w.featurizer.featurize(w.data["train"].to_pandas()),
    "Featurizer.fingerprint": lambda w: w.featurizer.fingerprint,
    "Featurizer.of_encoder": lambda w: qa_fast.Featurizer.of_encoder(
        w.featurizer.encoder, w.featurizer.config, "train"
    ),
    "Featurizer.schema": lambda w: w.featurizer.schema,
    "Shards": lambda w: list(w.shards),
    "Shards.check_contents": lambda w: w.shards.check_contents("train"),
    "Shards.names": lambda w: w.shards.names,
    "Shards.split": lambda w: w.shards.split("train"),
    "Split": lambda w: (w.shards["train"][0], repr(w.shards["train"])),
    "Split.batches": lambda w: w.shards["train"].batches(),
    "Split.lengths": lambda w: w.shards["train"].lengths,
    "Split.to_numpy": lambda w: w.shards["train"].to_numpy(),
    "Split.typed": lambda w: w.shards["train"].typed,
    "UserError": lambda w: qa_fast.UserError("a rule"),
    "__version__": lambda w: qa_fast.__version__,
    "build_shards": lambda w: w.built,
    "featurize": lambda w: w.shards,
    "load": lambda w: w.data,
    "open_shards": lambda w: qa_fast.open_shards(w.shards),
}


def public_names(some: list[str]) -> set[str]:
    """The names, and the public methods and properties that their classes define."""
    found = set(some)
    for name in some:
        made = getattr(qa_fast, name)
        if inspect.isclass(made) and not issubclass(made, Exception):
            kinds = (property, cached_property, classmethod, staticmethod)
            found |= {
                f"{name}.{method}"
                for method, value in vars(made).items()
                if not method.startswith("_") and (inspect.isfunction(value) or isinstance(value, kinds))
            }
    return found


def check(calls: dict[str, Any], names: list[str], world: World) -> None:
    missing = public_names(names) - PLAIN.keys() - ENGINES.keys()
    assert not missing, f"give each a call with plain inputs: {missing}"
    for name, call in calls.items():
        try:
            call(world)
        except Exception as error:
            pytest.fail(f"{name}: {error!r}")


def test_plain_calls_work(tmp_path: Path) -> None:
    names = [name for name in qa_fast.__all__ if name not in ("SpanModel", "SquadMetrics")]
    check(PLAIN, names, World(tmp_path, sample.model_folder(tmp_path / "model")))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: qa_fast.evaluate(w, "validation"), "SHARDS must be the path of a folder .*; received World: pass"),
        (lambda w: qa_fast.open_shards(None), "SHARDS must be the path of a folder .*; received NoneType"),
        (lambda w: qa_fast.Featurizer(w), "MODEL must be 'minilm', .*; received World: save a model with save_pre"),
        (lambda w: qa_fast.Featurizer(w.model, columns=["question"]), r"--columns maps .*; received \['question'\]"),
        (lambda w: qa_fast.load(w.rows, columns=["question"]), r"--columns maps .*; received \['question'\]"),
        (lambda w: qa_fast.load(w.rows, splits=3), "--split must be a name or a list of names; received 3"),
        (lambda w: qa_fast.featurize(w.rows, w.model, max_length="384"), "--max-length must be a whole number; rec"),
        (lambda w: qa_fast.featurize(w.rows, w.model, drop_impossible="no"), "--drop-impossible must be true or fal"),
    ],
)
def test_other_types_have_one_sentence(tmp_path: Path, call: Any, message: str) -> None:
    with pytest.raises(qa_fast.UserError, match=message):
        call(World(tmp_path, tmp_path))


@pytest.mark.slow
def test_plain_calls_of_engines_work(tmp_path: Path) -> None:
    check(ENGINES, qa_fast.__all__, World(tmp_path, make_model_folder(tmp_path / "model")))
