"""Accuracy as an `evaluate.Metric` that needs no download."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np
from transformers import EvalPrediction


class Accuracy(evaluate.Metric):
    """Share of predictions that equal their reference, 0 to 1. ``evaluate.load("accuracy")`` fetches code instead."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Share of predictions that equal their reference.",
            citation="",
            inputs_description="predictions and references: class indices, shape (N,)",
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"accuracy": float(np.mean(np.asarray(predictions) == np.asarray(references)))}


def compute_accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy, as Trainer's ``compute_metrics`` with `predicted_class` as ``preprocess_logits_for_metrics``."""
    # In memory: metrics that write to the cache lock each other out when runs go side by side.
    metric = Accuracy(keep_in_memory=True)
    return metric.compute(predictions=prediction.predictions, references=prediction.label_ids)


def predicted_class(logits: Any, labels: Any) -> Any:
    """Logits (N, classes) -> indices (N,): Trainer then gathers class indices instead of logits."""
    return logits.argmax(-1)
