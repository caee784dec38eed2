"""MLflow runs: a journal on the run's storage, delivered by a process of its own, once."""
