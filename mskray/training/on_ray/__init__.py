"""Training on Ray: what the loop is told of a cluster. Nothing else of the loop's room imports Ray."""
