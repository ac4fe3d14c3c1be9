"""The snippets of a model card; the tests take them out of a card and run them.

Until `push` knows the repository, it is called `PLACEHOLDER`.
"""

from __future__ import annotations

PLACEHOLDER = "ORG/NAME"

_TRANSFORMERS = """\
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("ORG/NAME")
model = AutoModelForQuestionAnswering.from_pretrained("ORG/NAME").eval()

question = "When was the lighthouse lit?"
context = "The lighthouse on the point was first lit in 1868. Its keeper kept bees as well."
inputs = tokenizer(question, context, truncation="only_second", max_length={max_length},
                   return_offsets_mapping=True, return_tensors="pt")
offsets = inputs.pop("offset_mapping")[0].tolist()
with torch.no_grad():
    output = model(**inputs)

# The best pair of a start and an end at most 30 tokens apart, both in the context.
outside = torch.tensor([part != 1 for part in inputs.sequence_ids(0)])
start_logits = output.start_logits[0].masked_fill(outside, float("-inf"))
end_logits = output.end_logits[0].masked_fill(outside, float("-inf"))
scores = start_logits[:, None] + end_logits[None, :]
allowed = torch.ones_like(scores).triu().tril(29).bool()
start, end = divmod(scores.masked_fill(~allowed, float("-inf")).argmax().item(), len(scores))
print(context[offsets[start][0]:offsets[end][1]])
"""

_QA_FAST = """\
from qa_fast import Answerer

answerer = Answerer.from_pretrained("ORG/NAME")
print(answerer(
    question="When was the lighthouse lit?",
    context="The lighthouse on the point was first lit in 1868. Its keeper kept bees as well.",
))  # {{"score": ..., "start": ..., "end": ..., "answer": ...}}
"""


def usage(max_length: int) -> str:
    """The section on use, in Markdown.

    Args:
        max_length: Longest input in tokens that the model was trained on.
    """
    return f"""\
## Use

With transformers (and torch), for a text that fits into {max_length} tokens:

```python
{_TRANSFORMERS.format(max_length=max_length)}```

With qa-fast (`pip install 'qa-fast[train]'`), for texts of any length, which are read in overlapping windows:

```python
{_QA_FAST.format()}```

On a command line:

```sh
qa-fast answer ORG/NAME --question "When was the lighthouse lit?" --context-file text.txt
```
"""
