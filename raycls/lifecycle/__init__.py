"""The life of a model in service: uploads, retraining, experiments, drift and rollback."""
