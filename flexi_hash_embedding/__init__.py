"""Flexi Hash Embeddings: dicts of any size, hashed and pooled to vectors of one size."""

from flexi_hash_embedding.embedding import FlexiHashEmbedding
from flexi_hash_embedding.embedding_errors import (
    FeatureError,
    FeatureKeyError,
    FeatureRowError,
    FeatureValueError,
    FlexiHashError,
    SettingError,
)
from flexi_hash_embedding.hashing import hash_rows

__all__ = [
    "FeatureError",
    "FeatureKeyError",
    "FeatureRowError",
    "FeatureValueError",
    "FlexiHashEmbedding",
    "FlexiHashError",
    "SettingError",
    "hash_rows",
]
