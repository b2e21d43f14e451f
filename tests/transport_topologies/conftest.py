"""A cluster for the whole session: it takes seconds to form."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from probing import Callers
from servers import FACTORIES, ServerNotInstalled
from topologies import Cluster, cluster

CALM_MS = 10_000
"""A node timeout at which a busy machine loses no node."""


@pytest.fixture(scope="session", params=["valkey9", pytest.param("redis8", marks=pytest.mark.slow)])
def kept_cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    try:
        FACTORIES[request.param]()
    except ServerNotInstalled as reason:
        pytest.skip(str(reason))
    with cluster(FACTORIES[request.param]) as nodes:
        yield nodes


@pytest.fixture
def nodes(kept_cluster: Cluster) -> Cluster:
    """A whole cluster, empty, in no hurry to declare anybody dead."""
    kept_cluster.wait_until_whole()
    kept_cluster.set_node_timeout(CALM_MS)
    kept_cluster.flush()
    return kept_cluster


@pytest.fixture(params=Callers.KINDS)
def callers(request: pytest.FixtureRequest, nodes: Cluster) -> Iterator[Callers]:
    with Callers(request.param, nodes.url) as made:
        yield made
