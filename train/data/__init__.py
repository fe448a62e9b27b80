"""Samples on disk and in batches."""
