"""What application developers import: clients, credentials and the values that the cloud answers.

Layers, each knowing only those above it: values (``results``, ``rollouts``), ``messages`` (protocol
to values), ``calls`` (every call as a value), ``connection`` (sending them), ``sync`` and ``aio``
(the names that applications use).
"""

from camsdk.client.aio import AsyncClient, AsyncEventStream, AsyncRollout
from camsdk.client.calls import DeployOptions, EventFilter
from camsdk.client.credentials import Credentials
from camsdk.client.failures import RetryPolicy
from camsdk.client.results import (
    ApiToken,
    AppearanceHit,
    AppliedRules,
    BootstrapTokens,
    CameraStatus,
    CloudStatus,
    DesiredState,
    Device,
    EventPage,
    EventRecord,
    Fleet,
    IngestStats,
    Model,
    ReportedState,
    SearchResult,
    TrackRecord,
    UpdateState,
)
from camsdk.client.rollouts import (
    ExecutionState,
    RolloutAction,
    RolloutExecution,
    RolloutState,
    RolloutStatus,
    Strategy,
)
from camsdk.client.sync import Client, EventStream, Rollout

__all__ = [
    "ApiToken",
    "AppearanceHit",
    "AppliedRules",
    "AsyncClient",
    "AsyncEventStream",
    "AsyncRollout",
    "BootstrapTokens",
    "CameraStatus",
    "Client",
    "CloudStatus",
    "Credentials",
    "DeployOptions",
    "DesiredState",
    "Device",
    "EventFilter",
    "EventPage",
    "EventRecord",
    "EventStream",
    "ExecutionState",
    "Fleet",
    "IngestStats",
    "Model",
    "ReportedState",
    "RetryPolicy",
    "Rollout",
    "RolloutAction",
    "RolloutExecution",
    "RolloutState",
    "RolloutStatus",
    "SearchResult",
    "Strategy",
    "TrackRecord",
    "UpdateState",
]
