"""Metrics: identity, text and image quality of generated pictures, each with what tells how sure it is."""

from .clip_scores import ClipScorer, load_clip, paired_cosine
from .copy_paste import CopyPasteScores, copy_paste_scores, photographs_alike
from .distribution import (
    DistributionScores,
    compare_distributions,
    extract_features,
    frechet_distance,
    kernel_distance,
    load_extractor,
)
from .errors import MetricError, MetricUnavailableError
from .face_similarity import FaceSimilarity, FaceTowerJudge, face_vectors, likeness, own_scores, summarise
from .identity_map import IdentityMap, draw_identity_map, measure_identity_map
from .intervals import Interval, cluster_bootstrap, wilson
from .zero_shot import ZeroShotScores, class_embeddings, imagenet_templates, zero_shot_accuracy
