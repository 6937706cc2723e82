"""What happens to a model after its first deployment: new pictures, retraining, experiments on live traffic, drift."""
