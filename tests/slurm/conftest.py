"""A virtual Slurm cluster for the tests of this folder, started once a session when first used."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from submitted import Site
from virtual_cluster import ACCOUNTING_COMMANDS, COMMANDS, VirtualCluster, missing

HERE = Path(__file__).parent
AT_ONCE = 6


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = missing()
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("slurm")
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """What Slurm says goes with a failure."""
    report = yield
    if report.failed:
        for cluster in CLUSTERS:
            report.sections.append((f"Slurm in {cluster.folder}", cluster.report()))
    return report


CLUSTERS: list[VirtualCluster] = []


def _started(**settings: bool) -> Iterator[VirtualCluster]:
    cluster = VirtualCluster(**settings)
    CLUSTERS.append(cluster)
    try:
        cluster.start()
        yield cluster
    finally:
        CLUSTERS.remove(cluster)
        cluster.stop()


@pytest.fixture(scope="session")
def slurm() -> Iterator[VirtualCluster]:
    """Without accounting, so without sacct, as on many small clusters."""
    yield from _started()


@pytest.fixture(scope="session")
def slurm_that_warns() -> Iterator[VirtualCluster]:
    """One that sends a job's own warning signal before it preempts the job."""
    yield from _started(warns=True)


@pytest.fixture(scope="session")
def slurm_with_sacct() -> Iterator[VirtualCluster]:
    """One with slurmdbd."""
    if reason := missing(COMMANDS + ACCOUNTING_COMMANDS):
        pytest.skip(reason)
    yield from _started(accounting=True)


@pytest.fixture(scope="module")
def bodies(request: pytest.FixtureRequest, site: Site) -> Iterator[dict[str, Future[None]]]:
    """What the chosen tests of a module do that are decorated by ``at_once``, under way."""
    chosen = [item for item in request.session.items if item.path == request.path]
    found = {item.name: item.obj.body for item in chosen if hasattr(item.obj, "body")}
    pool = ThreadPoolExecutor(AT_ONCE)
    yield {name: pool.submit(site.run, body) for name, body in found.items()}
    pool.shutdown(wait=False, cancel_futures=True)
