"""A real Orthanc (Debian: orthanc, orthanc-dicomweb) on loopback, with a password, its data in a folder."""

import json
import socket
import subprocess
import time
from pathlib import Path

import requests

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
USER, PASSWORD = "watcher", "only for tests"


class Orthanc:
    """Starts and stops; what was stored is there at the next start."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        settings = {
            "Name": "mskray tests",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "index"),
            "Plugins": [str(PLUGIN)],
            "HttpPort": self.port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": True,
            "RegisteredUsers": {USER: PASSWORD},
            "DicomServerEnabled": False,
            "ConcurrentJobs": 1,
            "HttpThreadsCount": 4,
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": False},
        }
        (folder / "orthanc.json").write_text(json.dumps(settings), encoding="utf-8")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/dicom-web"

    def start(self, timeout: float = 60.0) -> None:
        with (self._folder / "orthanc.log").open("ab") as log:
            self._process = subprocess.Popen(["Orthanc", self._folder / "orthanc.json"], stdout=log, stderr=log)
        end = time.monotonic() + timeout
        while True:
            try:
                if requests.get(f"{self.url}/studies", auth=(USER, PASSWORD), timeout=5).ok:
                    return
            except requests.ConnectionError:
                pass
            gone = self._process.poll() is not None
            if gone or time.monotonic() > end:
                self.stop()
                raise RuntimeError((self._folder / "orthanc.log").read_text(errors="replace")[-2000:])
            time.sleep(0.1)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None

    def instances(self) -> list[str]:
        """SOP instance UIDs of all that it holds, however often."""
        root = f"http://127.0.0.1:{self.port}/instances?expand"
        said = requests.get(root, auth=(USER, PASSWORD), timeout=30).json()
        return sorted(each["MainDicomTags"]["SOPInstanceUID"] for each in said)
