"""Procedural 3D scenes behind the built-in sample: textures, geometry, rendering, sensors."""
