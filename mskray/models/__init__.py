"""torch.nn modules and nothing else, one architecture a file."""
