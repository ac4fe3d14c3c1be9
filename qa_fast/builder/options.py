"""The options of a build besides `FeatureConfig`: which data it reads, and where and how it runs."""

from __future__ import annotations

from dataclasses import dataclass

from qa_fast.options import check_values, option
from qa_fast.schema import ENCODE_MODES

LOCAL, RAY = "local", "ray"

_DATA, _RUN = "Data", "Where and how"


@dataclass(frozen=True)
class BuildOptions:
    """The options of `build_shards` besides `FeatureConfig`. Each field declares its meaning and bounds.

    In Python `splits` may also be the name of one split.

    Examples:
        >>> BuildOptions(splits=["train"], max_examples=1000, workers=4)
    """

    splits: list[str] | None = option(  # noqa: RUF009
        None,
        "Read only this split; by default all. For a single file: the name to give its split.",
        group=_DATA,
        flag="--split",
    )
    columns: dict[str, str] | None = option(  # noqa: RUF009
        None,
        "Your column's name for id, question, context, answers, answer_start or is_impossible, such as question=frage.",
        group=_DATA,
    )
    max_examples: int | None = option(
        None, "Number of examples to read from the start of each split; by default all.", group=_DATA, least=1
    )
    validation_share: float | None = option(
        None,
        "Share of the questions of a train split to hold out as the validation split, such as 0.2. All questions about "
        "a document stay together.",
        group=_DATA,
        above=0,
        below=1,
    )
    strict: bool = option(
        False, "Stop with an error if any example is rejected, or any answer repaired or left out.", group=_DATA
    )
    encode: str = option(
        "auto",
        "How texts are tokenized: 'direct' tokenizes each text, 'words' each distinct word once, and 'auto' chooses "
        "'words' if it gives the same tokens. The shards are the same.",
        group=_RUN,
        choices=ENCODE_MODES,
    )
    workers: int | None = option(
        None,
        "Number of threads (or of actors, with --engine ray); by default, or with 0, one for each processor.",
        group=_RUN,
        least=0,
    )
    engine: str = option(
        LOCAL,
        "'local' uses threads on this machine, 'ray' uses a Ray cluster. The shards are the same.",
        group=_RUN,
        choices=(LOCAL, RAY),
    )
    address: str | None = option(
        None,
        "Address of the Ray cluster: host:port or auto. By default the cluster that RAY_ADDRESS names, or one started "
        "on this machine.",
        group=_RUN,
    )
    overwrite: bool = option(False, "Replace shards that were made with other inputs or options.", group=_RUN)

    def check(self) -> None:
        """Refuse values that are out of bounds or not among the choices.

        Raises:
            UserError: A field has such a value.
        """
        check_values(self)
