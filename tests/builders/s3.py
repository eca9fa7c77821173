"""An S3 server of a test's own (moto's), with one bucket."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.services.loopback import free_port, wait_for_answer

BUCKET = "nights"


@dataclass(frozen=True)
class Bucket:
    """A bucket, and what a program's environment holds to reach it."""

    endpoint: str

    @property
    def environment(self) -> dict[str, str]:
        """Return what every client of S3 reads."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def keys(self, prefix: str) -> list[str]:
        """Return the objects whose names begin so."""
        pages = self._client().get_paginator("list_objects_v2")
        found = pages.paginate(Bucket=BUCKET, Prefix=prefix)
        return [item["Key"] for page in found for item in page.get("Contents", [])]

    def make(self) -> None:
        """Make the bucket."""
        self._client().create_bucket(Bucket=BUCKET)

    def _client(self) -> Any:
        import boto3

        return boto3.client(
            "s3", endpoint_url=self.endpoint, region_name="us-east-1",
            aws_access_key_id="test", aws_secret_access_key="test",
        )  # fmt: skip


@contextmanager
def s3_server(log: Path) -> Iterator[Bucket]:
    """Let a server with an empty bucket answer while the block lasts."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("w") as stream:
        child = subprocess.Popen(command, env=dict(os.environ), stdout=stream, stderr=stream)
    try:
        bucket = Bucket(f"http://127.0.0.1:{port}")
        assert wait_for_answer(f"{bucket.endpoint}/moto-api/", child, 60.0), log.read_text()
        bucket.make()
        yield bucket
    finally:
        child.terminate()
        child.wait()
