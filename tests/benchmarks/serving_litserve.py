"""A peer of `bench_serve.py`: the ensemble behind LitServe, its networks as they were trained, as a process.

    python tests/benchmarks/serving_litserve.py ENSEMBLE PORT '{"workers": 1, "threads": 2, "batch": 8, "wait_ms": 5}'

It answers what the benchmark reads of mskray's answer, at the same path, by mskray's decoder. LitServe decodes where it
predicts, in its workers; of these there are `workers`, each computing with `threads` threads.
"""

import json
import sys
from typing import Any

import litserve
from fastapi import Request


class EnsembleAPI(litserve.LitAPI):
    """Soft voting on one radiograph a request."""

    uri = ""
    threads = 1

    def setup(self, device: str) -> None:
        import torch

        torch.set_num_threads(self.threads)
        self.voter = as_trained(self.uri)

    def decode_request(self, request: Request) -> Any:
        from mskray.imaging.decode import decode

        form: Any = request  # LitServe reads a form where a request is asked for
        return decode(form["views"].file.read()).pixels

    def batch(self, inputs: list[Any]) -> list[Any]:
        """As they are: radiographs are of many sizes."""
        return inputs

    def predict(self, pixels: Any) -> Any:
        from mskray.families import Images

        together = pixels if isinstance(pixels, list) else [pixels]
        said = self.voter(Images(together)).probabilities
        answers = [dict(zip(self.voter.classes, row.tolist(), strict=True)) for row in said]
        return answers if isinstance(pixels, list) else answers[0]

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def encode_response(self, output: dict[str, float]) -> dict[str, Any]:
        return {"study": {"probabilities": output}}


def as_trained(uri: str) -> Any:
    """Load an ensemble whose networks are torchvision's in channels_last, BatchNorm and all."""
    import torch

    from mskray.bundles import load_bundle
    from mskray.ensemble import load

    voter = load(uri)
    for predictor, member in zip(voter.predictors, voter.ensemble.members, strict=True):
        predictor.network = predictor.recipe.build()
        predictor.network.load_state_dict(load_bundle(member.uri)[1].state)
        predictor.network.to(memory_format=torch.channels_last).eval()
        predictor._sees = None
    return voter


def serve(uri: str, port: int, workers: int, threads: int, batch: int, wait_ms: float) -> None:
    api = EnsembleAPI(max_batch_size=batch, batch_timeout=wait_ms / 1000, api_path="/v1/studies")
    api.uri, api.threads = uri, threads
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=workers, timeout=False, healthcheck_path="/readyz", fast_queue=True
    )
    server.run(host="127.0.0.1", port=port, log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), **json.loads(sys.argv[3]))
