"""Takes the records of training and evaluation in a model folder; writes its model card and uploads it to the Hub."""

from qa_fast.hub.card import write_card
from qa_fast.hub.facts import record_data, record_evaluation
from qa_fast.hub.push import PushPlan, plan_push, push

__all__ = ["PushPlan", "plan_push", "push", "record_data", "record_evaluation", "write_card"]
