"""Depth of images, videos and cameras, as files."""
