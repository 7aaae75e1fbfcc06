"""A cache of the hub to fill and to damage."""

import shutil

import pytest
from huggingface_hub import _snapshot_download, constants, file_download

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub_cache(monkeypatch, tmp_path):
    """An empty hub cache, without a network."""
    cache = tmp_path / "hub"
    cache.mkdir()
    for module in (_snapshot_download, file_download, constants):
        for constant in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
            if hasattr(module, constant):
                monkeypatch.setattr(module, constant, str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cache


@pytest.fixture
def put_in_cache(hub_cache):
    """Copies a folder into the cache as a repository; returns where it is."""

    def put(name, source):
        repository = hub_cache / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(COMMIT)
        shutil.copytree(source, repository / "snapshots" / COMMIT)
        return repository / "snapshots" / COMMIT

    return put
