"""What manages a running server, over HTTP: a deployment of its own, beside the replicas that answer predictions."""
