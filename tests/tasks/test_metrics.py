from __future__ import annotations

import numpy as np
import torch
from transformers import EvalPrediction

from hf_tempbalance.tasks.metrics import Accuracy, compute_accuracy, predicted_class


def test_accuracy_is_the_share_of_right_predictions_and_needs_no_network():
    assert Accuracy().compute(predictions=[0, 1, 2, 2], references=[0, 1, 1, 2]) == {"accuracy": 0.75}


def test_it_adds_up_over_batches():
    metric = Accuracy()
    metric.add_batch(predictions=[0, 1], references=[0, 0])
    metric.add_batch(predictions=[5], references=[5])
    assert metric.compute() == {"accuracy": 2 / 3}


def test_it_works_as_trainer_calls_it():
    logits = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.4, 0.6]])
    predictions = predicted_class(logits, None).numpy()
    result = compute_accuracy(EvalPrediction(predictions=predictions, label_ids=np.array([1, 1, 1])))
    assert result == {"accuracy": 2 / 3}
