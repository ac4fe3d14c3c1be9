"""The forms in which callers give questions and documents: positions, names, dicts, lists and iterators."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import fields
from typing import Any

from qa_fast.answer.foreign import check_arguments
from qa_fast.answer.options import AnswerOptions
from qa_fast.errors import UserError, shown

PLACE = "item {} of the inputs: "
OPTION_NAMES = tuple(field.name for field in fields(AnswerOptions))


def inputs_of(inputs: tuple[Any, ...], others: dict[str, Any]) -> tuple[Any, ...]:
    """Return a call's positional inputs, which the pipeline also accepted under the names `data` and `X`.

    Args:
        inputs: The positional inputs.
        others: Keyword arguments that are not options; the two names are taken out.

    Raises:
        UserError: A keyword argument is unknown, or inputs came in both ways.
    """
    for name in ("data", "X"):
        if name in others:
            if inputs:
                raise UserError(
                    f"inputs must come by position or by name; received both, {name} and others: leave one out"
                )
            inputs = (others.pop(name),)
    check_arguments(others, OPTION_NAMES)
    return inputs


def pairs_of(inputs: tuple[Any, ...], question: Any, context: Any) -> tuple[list[tuple[Any, Any]], bool]:
    """Return the pairs of question and context in a call, and whether it asked a single question.

    Raises:
        UserError: The inputs have none of the accepted forms.
    """
    if inputs and (question is not None or context is not None):
        raise UserError("inputs must come by position or by name; received both: leave one out")
    if len(inputs) == 2 and isinstance(inputs[0], str):
        question, context = inputs
    elif inputs:
        return _pairs_of_dicts(inputs)
    if question is None or context is None:
        raise UserError(
            "a question and a context are needed; received no "
            f"{'question' if question is None else 'context'}: pass both"
        )
    if isinstance(question, str) and isinstance(context, str):
        return [(question, context)], True
    questions = [question] if isinstance(question, str) else listed("question", question)
    contexts = [context] * len(questions) if isinstance(context, str) else listed("context", context)
    if len(questions) != len(contexts):
        raise UserError(
            f"there must be as many contexts as questions; received {len(questions)} questions and {len(contexts)} "
            "contexts: pass one context for each question, or a single one for all"
        )
    return list(zip(questions, contexts, strict=True)), False


def _pairs_of_dicts(inputs: tuple[Any, ...]) -> tuple[list[tuple[Any, Any]], bool]:
    """Do as `pairs_of` for inputs that are dicts with question and context."""
    single = len(inputs) == 1 and isinstance(inputs[0], dict)
    many = len(inputs) == 1 and isinstance(inputs[0], Iterable) and not isinstance(inputs[0], dict | str | bytes)
    items = list(inputs[0]) if many else list(inputs)
    return [pair_of(item, None if single else number) for number, item in enumerate(items, 1)], single


def pair_of(item: Any, number: int | None) -> tuple[Any, Any]:
    """Return the question and the context of a dict; the number is that of several, counted from 1.

    Raises:
        UserError: It is no dict with these two.
    """
    if isinstance(item, Mapping) and {"question", "context"} <= item.keys():
        return item["question"], item["context"]
    kind = f"a dict with {', '.join(map(str, item))[:80]}" if isinstance(item, Mapping) else type(item).__name__
    place = "" if number is None else PLACE.format(number)
    raise UserError(f"{place}each input must be a dict with question and context; received {kind}")


def listed(name: str, texts: Any) -> list[Any]:
    """Return an iterable of texts as a list. `questions.prepare` checks later whether its items are texts.

    Raises:
        UserError: The value is not iterable, or iterating it would not give its texts in order.
    """
    # A dict would give its keys, bytes their numbers, and a set has no order.
    if isinstance(texts, Mapping | Set | bytes | bytearray | memoryview) or not isinstance(texts, Iterable):
        raise UserError(
            f"{name} must be a text or a list of texts; received {type(texts).__name__} {shown(texts)}: pass texts"
        )
    return list(texts)
