"""Makes the secrets that compose.yaml refers to, once, in a folder that only you can enter and that git ignores.

    python infra/compose/make_secrets.py [--out infra/compose/secrets]

Files that are there are kept: what has been given out stays valid. Delete one (and both of the S3 pair) to renew it,
then `docker compose up -d --force-recreate`. Containers get the files mounted under /run/secrets; no image layer or log
holds them. Keep node.env, as you keep the identifiers of patients: it holds the key of their pseudonyms, which mskray
reads from its environment.
"""

import argparse
import json
import os
import secrets
from pathlib import Path


def make(folder: Path) -> list[Path]:
    """Write what is missing; the new files.

    The folder is closed (0700) and the files in it open to read: the containers' users are not yours.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    made: list[Path] = []

    def write(name: str, text: str) -> None:
        path = folder / name
        if not path.exists():
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444), "w", encoding="utf-8") as file:
                os.fchmod(file.fileno(), 0o444)
                file.write(text)
            made.append(path)

    write("ray_token", secrets.token_hex(32))
    write("grafana_password", secrets.token_urlsafe(24))
    write("node.env", f"MSKRAY_HASH_KEY={secrets.token_hex(32)}\n")
    pair = ("aws_credentials", "s3_identities.json")
    if not all((folder / name).exists() for name in pair):
        for name in pair:  # one without the other opens nothing
            (folder / name).unlink(missing_ok=True)
        key, word = secrets.token_hex(10).upper(), secrets.token_hex(20)
        write(pair[0], f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {word}\n")
        identity = {"name": "mskray", "credentials": [{"accessKey": key, "secretKey": word}], "actions": ["Admin"]}
        write(pair[1], json.dumps({"identities": [identity]}))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the secrets of compose.yaml.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "secrets", help="folder (%(default)s)")
    folder = parser.parse_args().out
    for path in make(folder) or [folder]:
        print(f"made {path}" if path != folder else f"nothing to make: {folder} is complete")


if __name__ == "__main__":
    main()
