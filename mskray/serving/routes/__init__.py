"""The HTTP routes, a file for each thing that is asked for. Each makes a router over a `Desk`."""
