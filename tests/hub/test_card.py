"""The model card: what was recorded and nothing else, in the Hub's formats, with snippets that run."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from safetensors.numpy import save_file

from qa_fast.answer.calibration import Calibration
from qa_fast.answer.options import AnswerOptions
from qa_fast.answer.settings import write_settings
from qa_fast.errors import UserError
from qa_fast.hub.card import CARD, MARK, card_text, eval_results, read_card, write_card
from qa_fast.hub.facts import count_parameters, data_facts, read_facts, record_data, record_evaluation
from qa_fast.model.identity import hash_of_weights
from tests.backend import untraced
from tests.small_models import TINY_BERT

REVISION = "89abcdef0123456789abcdef0123456789abcdef"


def manifest(**changes: Any) -> dict[str, Any]:
    """`qa_fast.json` as featurizing SQuAD writes it, with other numbers."""
    shards = {"file": "data-00000-of-00001.arrow", "rows": 70, "bytes": 900, "xxh3_128": "5" * 32}
    counts = {"impossible": 4, "rejected": 1, "repaired": 0, "tokens": 9000, "differences": {}, "shards": [shards]}
    return {
        "qa_fast_version": "0.9",
        "format_version": 2,
        "config": {"max_length": 160, "doc_stride": 32, "labels": "exact", "drop_impossible": False},
        "model": {"name": "minilm", "tokenizer_hash": "7" * 64},
        "source": {
            "name": "squad",
            "origin": "SQuAD v1.1, official files",
            "sha256": "6" * 64,
            "files": {"train/0/train-v1.1.json": "8" * 64},
            "columns": {},
        },
        "splits": {
            "train": {"examples": 6000, "features": 70, **counts},
            "validation": {"examples": 1057, "features": 1070, **counts},
        },
    } | changes


def local_source() -> dict[str, Any]:
    return {
        "name": "/home/someone/secret folder/our questions",
        "origin": "local files",
        "sha256": "1" * 64,
        "files": {"train/0/part.jsonl": "2" * 64},
        "columns": {},
    }


def metrics(**changes: Any) -> dict[str, Any]:
    """`training/metrics.json` as a run leaves it."""
    epochs = [
        {"epoch": 1, "step": 10, "loss": 2.5, "exact_match": 40.0, "f1": 55.5, "seconds": 3.0, "saved": True},
        {"epoch": 2, "step": 20, "loss": 2.25, "exact_match": 61.123456, "f1": 72.5, "seconds": 3.0, "saved": True},
        {"epoch": 3, "step": 30, "loss": None, "exact_match": 60.0, "f1": 71.0, "seconds": 3.0, "saved": False},
    ]
    config = {"model": None, "out": "/home/someone/model", "epochs": 3, "batch_size": 16, "learning_rate": 5e-5}
    config |= {
        "max_examples": 5000,
        "validation": "validation",
        "validation_examples": None,
        "seed": 7,
        "dropout": None,
    }
    config |= {"precision": "auto", "jit": "auto", "resume": False, "dropout": None}
    return {
        "model": "/home/someone/.cache/minilm",
        "config": config,
        "features": 5063,
        "tokens": 123456,
        "steps": 30,
        "precision": {"value": "bfloat16", "reason": "2.0 times | as fast"},
        "jit": {"value": "off", "reason": "as asked"},
        "best": epochs[1],
        "history": {"steps": [10], "losses": [3.0], "learning_rates": [1e-5], "epochs": epochs},
        "seconds": {"all": 90.0, "steps": 60.0, "steps_that_compiled": 5.0},
        "features_per_second": 84.4,
        "devices": 1,
        "backend": "tensorflow",
        "versions": {"qa-fast": "0.1.0", "keras": "3.15.1"},
    } | changes


def trained_folder(folder: Path, **changes: Any) -> Path:
    """A model folder as training leaves it, with little in it."""
    (folder / "training").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    weights = {"a": np.zeros((300, 40), np.float32), "b": np.zeros(12, np.float32)}
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    (folder / "training" / "metrics.json").write_text(json.dumps(metrics(**changes)))
    (folder / "training" / "training.png").write_bytes(b"a picture")
    return folder


def test_metadata(tmp_path: Path) -> None:
    folder = trained_folder(tmp_path / "our-model")
    assert write_card(folder, manifest()) == folder / CARD
    card = ModelCard.load(folder / CARD)
    data = card.data.to_dict()
    index = data.pop("model-index")
    assert data == {
        "base_model": "sentence-transformers/all-MiniLM-L6-v2",
        "datasets": ["rajpurkar/squad"],
        "language": "en",
        "library_name": "transformers",
        "metrics": ["exact_match", "f1"],
        "pipeline_tag": "question-answering",
        "tags": ["qa-fast", "extractive-question-answering"],
    }  # and no license
    dataset = {
        "type": "rajpurkar/squad",
        "name": "SQuAD v1.1",
        "config": "plain_text",
        "split": "validation",
        "args": {"questions": 1057},
    }
    assert index == [
        {
            "name": "our-model",
            "results": [
                {
                    "task": {"type": "question-answering", "name": "Question Answering"},
                    "dataset": dataset,
                    "metrics": [
                        {"type": "exact_match", "value": 61.1235, "name": "Exact Match"},
                        {"type": "f1", "value": 72.5, "name": "F1"},
                    ],
                }
            ],
        }
    ]


def test_text(tmp_path: Path) -> None:
    folder = trained_folder(tmp_path / "model")
    text = write_card(folder, manifest()).read_text(encoding="utf-8")
    for expected in (
        "# all-MiniLM-L6-v2, trained to answer questions",
        "BERT encoder, 0.0 million parameters",
        "| SQuAD v1.1 | validation | all 1,057 | 61.12 | 72.50 |",
        "Measured in bfloat16. The saved epoch is the one with the best F1 on validation",
        "trained on a random sample of 5,000 questions of train, which are 5,063 windows and 123,456 tokens per epoch.",
        "| train | 6,000 | 70 | 4 | 1 | 9,000 |",
        "up to 160 tokens, including the question. Neighbouring windows share 32 tokens. Labels: `exact`.",
        "| learning rate | 5e-05 |",
        "| dropout | not set |",
        "| precision | bfloat16 (2.0 times \\| as fast) |",
        "| steps | 30 |",
        "![Training loss and learning rate over the steps](training/training.png)",
        "| 2 | 20 | 2.250 | 61.12 | 72.50 | this model |",
        "| 3 | 30 |  | 60.00 | 71.00 |  |",
        "1.5 minutes with validation since the run was started or last resumed; 84.4 windows per second",
        "qa-fast 0.1.0, keras 3.15.1.",
        f"| source train/0/train-v1.1.json | `{'8' * 64}` |",
        f"| shard validation/data-00000-of-00001.arrow | `{'5' * 32}` (xxh3_128) |",
        "The publisher of this model chooses its license",
    ):
        assert expected in text, expected
    assert "/home/someone" not in text + (folder / "training" / "data.json").read_text()
    # Every row of every table has the columns of its header.
    for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.M):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1, table
    # A pure function of what is recorded: written again, the same bytes.
    assert write_card(folder).read_text(encoding="utf-8") == text


def test_eval_results(tmp_path: Path) -> None:
    source = manifest()["source"] | {"name": "org/Data_set:eng", "origin": f"Hub org/Data_set:eng@{REVISION}"}
    folder = trained_folder(tmp_path / "model")
    (folder / ".eval_results").mkdir()
    (folder / ".eval_results" / "old.yaml").write_text("- notes: all 9 questions, measured by qa-fast\n")
    (folder / ".eval_results" / "theirs.yaml").write_text("- value: 1\n")
    write_card(folder, manifest(source=source))
    assert sorted(path.name for path in (folder / ".eval_results").iterdir()) == [
        "org-Data-set-eng-validation.yaml",
        "theirs.yaml",
    ]
    scores = folder / ".eval_results" / "org-Data-set-eng-validation.yaml"
    entries = yaml.safe_load(scores.read_text())
    scores.write_text("- value: 1\n")
    with pytest.raises(UserError, match="scores replace only scores that qa-fast wrote"):
        write_card(folder)
    assert scores.read_text() == "- value: 1\n"
    notes = "all 1,057 questions of split validation of org/Data_set:eng, measured by qa-fast"
    assert entries == [
        {"dataset": {"id": "org/Data_set", "task_id": task, "revision": REVISION}, "value": value, "notes": notes}
        for task, value in (("exact_match", 61.1235), ("f1", 72.5))
    ]
    huggingface_hub = pytest.importorskip("huggingface_hub")
    if hasattr(huggingface_hub, "parse_eval_result_entries"):
        parsed = huggingface_hub.parse_eval_result_entries(entries)
        assert [(entry.task_id, entry.value) for entry in parsed] == [("exact_match", 61.1235), ("f1", 72.5)]
    data = ModelCard.load(folder / CARD).data
    assert data.datasets == ["org/Data_set"]
    assert "language" not in data.to_dict()
    assert data.eval_results[0].dataset_config == "eng"
    # The score on another configuration has a file of its own.
    scores.unlink()
    other = source | {"name": "org/Data_set:deu", "origin": f"Hub org/Data_set:deu@{REVISION}", "sha256": "d" * 64}
    record_evaluation(folder, manifest(source=other), "validation", exact_match=50.0, f1=60.0, questions=1_057)
    write_card(folder)
    assert "value: 60.0" in (folder / ".eval_results" / "org-Data-set-deu-validation.yaml").read_text()
    assert "value: 72.5" in scores.read_text()
    assert data.eval_results[0].dataset_revision == REVISION
    # And so does that on another revision.
    other = source | {"origin": f"Hub org/Data_set:eng@{'e' * 40}", "sha256": "e" * 64}
    record_evaluation(folder, manifest(source=other), "validation", exact_match=40.0, f1=45.0, questions=1_057)
    write_card(folder)
    assert "value: 72.5" in scores.read_text()
    assert "value: 45.0" in (folder / ".eval_results" / "org-Data-set-eng-validation-eeeeeeee.yaml").read_text()


def test_local_data_and_models_are_not_given_away(tmp_path: Path) -> None:
    model = {"name": "/home/someone/models/mine", "tokenizer_hash": "7" * 64}
    folder = trained_folder(tmp_path / "model")
    text = write_card(folder, manifest(source=local_source(), model=model)).read_text(encoding="utf-8")
    recorded = (folder / "training" / "data.json").read_text(encoding="utf-8")
    assert "/home/someone" not in text + recorded
    assert "secret" not in text + recorded
    data = read_card(text).data
    assert not {"datasets", "base_model", "language"} & set(data.to_dict())
    assert data.eval_results[0].dataset_type == "our-questions"
    assert not (folder / ".eval_results").exists()
    assert "based on a model in a local folder and was fine-tuned on our questions with qa-fast" in text


@pytest.mark.parametrize("base", ["org/base", None])
def test_base_model(base: str | None, tmp_path: Path) -> None:
    folder = trained_folder(tmp_path / "model", base_model=base)
    record_data(folder, manifest())
    assert read_facts(folder).base_model == base


def test_some_of_the_questions(tmp_path: Path) -> None:
    config = metrics()["config"] | {"validation_examples": 200, "max_examples": None}
    folder = trained_folder(tmp_path / "model", config=config)
    text = write_card(folder, manifest()).read_text(encoding="utf-8")
    assert "| SQuAD v1.1 | validation | 200 of 1,057 | 61.12 | 72.50 |" in text
    assert "are a random sample (seed 7)" in text
    assert "trained on all questions of train" in text
    assert read_card(text).data.eval_results[0].dataset_args == {"questions": 200}


def test_a_later_evaluation_takes_the_place_of_trainings(tmp_path: Path) -> None:
    folder = trained_folder(tmp_path / "model")
    record_data(folder, manifest())
    other = manifest(source=local_source())
    record_evaluation(folder, manifest(), "validation", exact_match=1.0, f1=2.0, questions=1057)
    record_evaluation(folder, manifest(), "validation", exact_match=63.0, f1=74.0, questions=1057, precision="float32")
    record_evaluation(folder, other, "validation", exact_match=30.0, f1=41.0, questions=50, seed=3)
    text = write_card(folder).read_text(encoding="utf-8")
    found = [(r.dataset_name, r.metric_type, r.metric_value) for r in read_card(text).data.eval_results]
    assert found == [
        ("SQuAD v1.1", "exact_match", 63.0),
        ("SQuAD v1.1", "f1", 74.0),
        ("our questions", "exact_match", 30.0),
        ("our questions", "f1", 41.0),
    ]
    assert "| our questions | validation | 50 of 1,057 | 30.00 | 41.00 |" in text
    assert "are a random sample (seed 3). Measured in float32. The saved epoch" in text
    assert [path.name for path in (folder / ".eval_results").iterdir()] == ["rajpurkar-squad-validation.yaml"]


def test_scored_on_what_it_was_trained_on(tmp_path: Path) -> None:
    expected = "The model was trained on files of validation"
    files = {"train/0/a.jsonl": "2" * 64, "train/1/b.jsonl": "3" * 64, "validation/0/c.jsonl": "4" * 64}
    folder = trained_folder(tmp_path / "model")
    assert expected not in write_card(folder, manifest(source=local_source() | {"files": files})).read_text()
    files["validation/1/again.jsonl"] = "3" * 64
    assert expected in write_card(folder, manifest(source=local_source() | {"files": files})).read_text()


def test_an_epoch_that_was_chosen_by_another_metric_has_squads_figures(tmp_path: Path) -> None:
    epoch = {"epoch": 1, "step": 9, "loss": 1.0, "exact_match": 40.0, "f1": 80.0, "seconds": 3.0, "saved": True}
    epoch |= {"metric": "korquad", "squad": [30.0, 45.0], "precision": "float32"}
    folder = trained_folder(tmp_path / "model", best=epoch, history={"epochs": [epoch]})
    text = write_card(folder, manifest()).read_text(encoding="utf-8")
    assert "| 30.00 | 45.00 |" in text
    assert "Measured in float32." in text
    assert "are by the metric `korquad`" in text


def test_nothing_measured(tmp_path: Path) -> None:
    folder = trained_folder(tmp_path / "model", best=None, history={"epochs": []}, features_per_second=None)
    (folder / "training" / "training.png").unlink()
    text = write_card(folder, manifest()).read_text(encoding="utf-8")
    assert "The model was not scored" in text
    assert "The model is not calibrated: `score` orders answers" in text
    calibration = Calibration(0.7, 0.2, -1.0, "harbours", "validation", "f00d", 0, 600, 0.1, 0.02)
    (folder / "config.json").write_text(json.dumps(TINY_BERT))
    write_settings(folder, AnswerOptions(calibration=calibration))
    calibrated = write_card(folder).read_text(encoding="utf-8")
    assert "fitted on 600 questions of harbours, validation. On questions about other documents" in calibrated
    assert "the expected calibration error was 0.0200, and 0.1000 without calibration" in calibrated
    assert "training.png" not in text
    assert "model-index" not in text
    assert not (folder / ".eval_results").exists()


def test_without_the_datas_facts(tmp_path: Path) -> None:
    text = write_card(trained_folder(tmp_path / "model")).read_text(encoding="utf-8")
    assert "fine-tuned on data that was not recorded" in text
    assert "### Data" not in text
    assert "The model was not scored" in text  # a score without its data says nothing


def test_what_a_person_decided_is_kept(tmp_path: Path) -> None:
    folder = trained_folder(tmp_path / "model")
    path = write_card(folder, manifest(source=local_source()))
    path.write_text(path.read_text().replace("---\n", "---\nlicense: other\nlicense_name: ours\nlanguage: da\n", 1))
    data = read_card(write_card(folder).read_text()).data
    assert (data.license, data.license_name, data.language) == ("other", "ours", "da")
    path.write_text("---\nlicense: mit\n---\n# My own card\n")
    with pytest.raises(
        UserError, match=r"a card replaces only a card that qa-fast wrote; .*README\.md is not one of those"
    ):
        write_card(folder)
    assert "My own card" in path.read_text()


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a model folder must hold config\.json; .* does not"):
        write_card(tmp_path)
    folder = trained_folder(tmp_path / "model")
    (folder / "training" / "metrics.json").unlink()
    with pytest.raises(UserError, match=r"a card is made from training/metrics\.json, which training writes"):
        write_card(folder)
    (folder / "training" / "metrics.json").write_text("{")
    with pytest.raises(UserError, match=r"metrics\.json must be readable JSON; it is not"):
        write_card(folder)
    for broken in ("---\n- a\n---\n", "---\na: [\n---\n", "---\nmodel-index: 3\n---\n"):
        (folder / CARD).write_text(f"{broken}{MARK}")
        with pytest.raises(UserError, match="a card must begin with metadata in YAML between two lines"):
            write_card(folder)


def evaluated(folder: Path) -> None:
    record_evaluation(folder, manifest(), "validation", exact_match=1.0, f1=2.0, questions=3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("metrics.json", []),
        ("metrics.json", {"config": {"validation": "validation"}, "best": 3}),
        ("metrics.json", {"history": {"epochs": [{}]}}),
        ("data.json", {"splits": 3}),
        ("evaluations.json", {"a": 1}),
        ("evaluations.json", [{"split": "validation"}]),
    ],
)
def test_records_with_another_structure_are_refused(tmp_path: Path, name: str, value: Any) -> None:
    folder = trained_folder(tmp_path / "model")
    record_data(folder, manifest())
    (folder / "training" / name).write_text(json.dumps(value))
    for write in (write_card, evaluated) if name == "evaluations.json" else (write_card,):
        with pytest.raises(UserError, match=r"made from records as qa-fast writes them; those in .* are different \("):
            write(folder)
    (folder / "training" / name).write_text("[" * 10**5)
    with pytest.raises(UserError, match=r"must be readable JSON"):
        write_card(folder)


def test_parameters(tmp_path: Path) -> None:
    folder = trained_folder(tmp_path / "model")
    assert count_parameters(folder) == 300 * 40 + 12
    save_file({"a": np.zeros((300, 40), np.float32)}, str(folder / "model-00001-of-00002.safetensors"))
    save_file({"c": np.zeros((), np.float32), "d": np.zeros((0, 7))}, str(folder / "model-00002-of-00002.safetensors"))
    assert count_parameters(folder) == 300 * 40 + 12 + 1  # "a" is in two files
    # numpy has no such numbers; the shape is all that is asked for.
    header = json.dumps({"e": {"dtype": "BF16", "shape": [3, 5], "data_offsets": [0, 30]}}).encode()
    whole = len(header).to_bytes(8, "little") + header + bytes(30)
    other = folder / "other.safetensors"
    other.write_bytes(whole)
    assert count_parameters(folder) == 300 * 40 + 12 + 1 + 15
    for broken in (b"", b"\xff" * 20, whole[:-1]):
        other.write_bytes(broken)
        assert count_parameters(folder) == 0
    other.unlink()
    other.mkdir()
    with pytest.raises(UserError, match=r"a model's files must be plain files; .*other\.safetensors' is not"):
        count_parameters(folder)
    assert count_parameters(folder / "training") == 0


@pytest.mark.slow
def test_facts_are_of_the_index_as_it_is_written(tmp_path: Path) -> None:
    """The keys that are read are those that featurizing and training write, and the snippets run on what they made."""
    pytest.importorskip("torch")
    from qa_fast.shards import open_shards
    from qa_fast.train import TrainConfig, train
    from tests.small_runs import make_model_folder, make_shards

    base = make_model_folder(tmp_path / "base")
    shards = make_shards(tmp_path / "shards", base, places=4)
    folder = tmp_path / "trained"
    config = TrainConfig(out=str(folder), max_steps=2, jit="off", precision="float32", checkpoint_every=0)
    with untraced():
        result = train(shards, config)
    text = write_card(folder, open_shards(shards).manifest).read_text(encoding="utf-8")
    facts = read_facts(folder)
    assert card_text(facts) == text
    assert eval_results(facts) == {}
    assert facts.scores[0].questions == facts.scores[0].of == 12
    assert (facts.scores[0].exact_match, facts.scores[0].f1) == (result.best.exact_match, result.best.f1)
    assert facts.data == json.loads(json.dumps(data_facts(open_shards(shards).manifest)))
    assert facts.has_picture
    assert str(tmp_path) not in text
    assert f"| {result.steps} |" in text
    assert result.metrics["weights"] == hash_of_weights(folder)
    snippets = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    assert len(snippets) == 2
    printed = []
    for snippet in snippets:
        assert "ORG/NAME" in snippet
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(snippet.replace("ORG/NAME", str(folder)), "snippet", "exec"), {})
        printed.append(out.getvalue().strip())
    context = "The lighthouse on the point was first lit in 1868. Its keeper kept bees as well."
    answer = eval(printed[1])
    assert printed[0]
    assert printed[0] in context
    assert set(answer) == {"score", "start", "end", "answer"}
    # Both give no answer if the model's options let it lead.
    write_settings(folder, AnswerOptions(null_threshold=-1000, max_answer_len=4))
    text = write_card(folder).read_text(encoding="utf-8")
    assert "answers have up to 4 tokens. The answer is empty if the score of no answer exceeds" in text
    for snippet in re.findall(r"```python\n(.*?)```", text, flags=re.S):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(snippet.replace("ORG/NAME", str(folder)), "snippet", "exec"), {})
        assert out.getvalue().strip() == "" or eval(out.getvalue())["answer"] == ""
    assert context[answer["start"] : answer["end"]] == answer["answer"]
