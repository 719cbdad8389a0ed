"""Ask served models from Python.

    from mskray.client import Client

    with Client("https://msk.example", token=os.environ["MSKRAY_TOKEN"]) as client:
        answer = client.predict_study(["front.dcm", "side.dcm"])
        print(answer.study.label, answer.study.probabilities)
        spine = client.read_spine(sorted(Path("series").iterdir()))

`AsyncClient` has the same methods to be awaited. A server that is busy, starting or away for a moment is asked again,
after as long as it says; a prediction changes nothing, so that asking twice does no harm, and what makes a job or keeps
a correction carries an idempotency key. Neither torch nor Ray is imported.
"""

from mskray.client.asking import RequestRefused
from mskray.client.asynchronous import AsyncClient
from mskray.client.requests import File
from mskray.client.synchronous import Client

__all__ = ["AsyncClient", "Client", "File", "RequestRefused"]
