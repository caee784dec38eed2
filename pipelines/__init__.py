"""One thin file a stage: paths in, a few straight calls into `mde`, files out."""
