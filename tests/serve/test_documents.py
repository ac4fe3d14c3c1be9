from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_fast.encode import TextEncoder, load_encoder
from qa_fast.encode.library import same_tokens
from qa_fast.serve.documents import CachingEncoder
from tests.made_up import texts
from tests.sample import model_folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    return load_encoder(model_folder(tmp_path_factory.mktemp("model")))


def test_a_text_met_again_is_not_tokenized_again(encoder: TextEncoder) -> None:
    caching = CachingEncoder.around(encoder, 1 << 20)
    first = caching.encode(pa.array(["the harbour", "a widow"]))
    again = caching.encode(pa.array(["a widow", "the mill", "a widow"]))
    assert (caching.cache.hits, caching.cache.misses) == (2, 3)
    assert np.array_equal(again.ids[: again.offsets[1]], first.ids[first.offsets[1] :])


@settings(max_examples=60, deadline=None)
@given(
    calls=st.lists(st.lists(texts.map(str.lstrip), max_size=4), max_size=5), limit=st.sampled_from([0, 2000, 1 << 20])
)
def test_tokens_are_those_of_the_plain_encoder(encoder: TextEncoder, calls: list[list[str]], limit: int) -> None:
    caching = CachingEncoder.around(encoder, limit)
    for call in calls:
        array = pa.array(call, pa.string())
        assert same_tokens(caching.encode(array), encoder.encode(array))
        assert caching.cache.bytes <= limit


def test_the_least_recently_used_goes_first_and_memory_stays_bounded(encoder: TextEncoder) -> None:
    caching = CachingEncoder.around(encoder, 10_000)
    for number in range(200):
        caching.encode(pa.array(["kept all along", f"the harbour of {number}"]))
        assert 0 < caching.cache.bytes <= 10_000
    assert caching.cache.hits == 199
    assert 5 < len(caching.cache) < 20
    caching.encode(pa.array(["the harbour of 0"]))
    assert caching.cache.hits == 199


def test_a_text_beyond_the_limit_is_encoded_but_not_kept(encoder: TextEncoder) -> None:
    caching = CachingEncoder.around(encoder, 5000)
    caching.encode(pa.array(["small"]))
    long = pa.array(["harbour " * 1000])
    assert same_tokens(caching.encode(long), encoder.encode(long))
    caching.encode(pa.array(["small"]))
    assert (len(caching.cache), caching.cache.hits) == (1, 1)
