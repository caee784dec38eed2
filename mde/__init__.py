"""Monocular depth estimation: from raw data to a registered model."""
