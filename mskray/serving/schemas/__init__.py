"""What the server says: typed, described, with an example each, so that the OpenAPI document is complete.

    curl localhost:8000/openapi.json

Dataclasses pass between deployments; everything else reaches the client.
"""
