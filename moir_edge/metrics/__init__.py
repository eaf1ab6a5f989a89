"""Task metrics as their authors define them, without torch: VQA-v2 accuracy, NLVR2, CIDEr-D."""

from __future__ import annotations

from moir_edge.metrics.bootstrap import mean_interval, ratio_interval
from moir_edge.metrics.cider import cider_d, tokenize_caption
from moir_edge.metrics.records import Interval
from moir_edge.metrics.statement import statement_accuracy, statement_consistency
from moir_edge.metrics.vqa import normalize_answer, vqa_accuracy

__all__ = [
    "Interval",
    "cider_d",
    "mean_interval",
    "normalize_answer",
    "ratio_interval",
    "statement_accuracy",
    "statement_consistency",
    "tokenize_caption",
    "vqa_accuracy",
]
