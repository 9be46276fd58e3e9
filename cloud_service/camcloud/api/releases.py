"""The user API's release part: models and rollouts."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from sqlalchemy import Connection
from typing_extensions import override

from camcloud.api import messages
from camcloud.api.errors import Context
from camcloud.fleet.devices import find_fleet
from camcloud.registry import Registry, find_model, list_models, references
from camcloud.rollout import store
from camcloud.rollout.plan import Rollout
from camcloud.rollout.service import RolloutService
from camcloud.store.database import Database
from camproto.v1 import api_pb2
from camproto.v1.api_pb2_grpc import CloudApiServicer
from camsdk.artifact.bundle import MAX_BUNDLE_BYTES
from camsdk.errors import InvalidInput, ResourceExhausted


class ReleaseApi(CloudApiServicer):
    """Calls about models and how they reach fleets."""

    def __init__(self, database: Database, registry: Registry, rollouts: RolloutService) -> None:
        self._models = registry
        self._rollouts = rollouts
        self._release_database = database

    @override
    async def PushModel(
        self, request_iterator: AsyncIterator[api_pb2.PushModelRequest], context: Context
    ) -> api_pb2.Model:
        """Takes a signed bundle in, sent in chunks."""
        data = bytearray()
        async for chunk in request_iterator:
            data += chunk.data
            if len(data) > MAX_BUNDLE_BYTES:
                raise ResourceExhausted(f"A bundle has at most {MAX_BUNDLE_BYTES} bytes.")
        return messages.model_message(await self._models.push(bytes(data)))

    @override
    async def ListModels(
        self, request: api_pb2.ListModelsRequest, context: Context
    ) -> api_pb2.ListModelsResponse:
        """Models, the newest first."""
        rows = await self._release_database.arun(lambda c: list_models(c, request.name))
        return api_pb2.ListModelsResponse(models=[messages.model_message(row) for row in rows])

    @override
    async def GetModel(self, request: api_pb2.GetModelRequest, context: Context) -> api_pb2.Model:
        """One model, by name, name:version or digest."""
        row = await self._release_database.arun(lambda c: find_model(c, request.reference))
        return messages.model_message(row)

    @override
    async def CreateRollout(
        self, request: api_pb2.CreateRolloutRequest, context: Context
    ) -> api_pb2.Rollout:
        """Begins to bring a model to a fleet."""
        plan = messages.plan_of(request)
        rollout = await self._rollouts.create(request.model, request.fleet, plan)
        return await self._rollout(rollout)

    @override
    async def GetRollout(
        self, request: api_pb2.GetRolloutRequest, context: Context
    ) -> api_pb2.Rollout:
        """One rollout."""
        return await self._rollout(await self._rollouts.get(request.rollout_id))

    @override
    async def ListRollouts(
        self, request: api_pb2.ListRolloutsRequest, context: Context
    ) -> api_pb2.ListRolloutsResponse:
        """Rollouts, the newest first; NotFound for a fleet that there is not."""

        def work(connection: Connection) -> api_pb2.ListRolloutsResponse:
            if request.fleet:
                find_fleet(connection, request.fleet)
            names = references(connection)
            rows = store.load_all(connection, request.fleet)
            return api_pb2.ListRolloutsResponse(
                rollouts=[messages.rollout_message(row, names) for row in rows]
            )

        return await self._release_database.arun(work)

    @override
    async def WatchRollout(
        self, request: api_pb2.GetRolloutRequest, context: Context
    ) -> AsyncIterator[api_pb2.Rollout]:
        """The rollout now and after every change, until it has ended."""
        async with aclosing(self._rollouts.watch(request.rollout_id)) as changes:
            async for rollout in changes:
                yield await self._rollout(rollout)

    @override
    async def ControlRollout(
        self, request: api_pb2.ControlRolloutRequest, context: Context
    ) -> api_pb2.Rollout:
        """Approves, pauses, resumes or aborts."""
        rollouts, rollout_id = self._rollouts, request.rollout_id
        match request.action:
            case api_pb2.ROLLOUT_ACTION_APPROVE:
                rollout = await rollouts.approve(rollout_id)
            case api_pb2.ROLLOUT_ACTION_PAUSE:
                rollout = await rollouts.pause(rollout_id)
            case api_pb2.ROLLOUT_ACTION_RESUME:
                rollout = await rollouts.resume(rollout_id)
            case api_pb2.ROLLOUT_ACTION_ABORT:
                rollout = await rollouts.abort(rollout_id, "aborted by an operator")
            case _:
                raise InvalidInput(
                    f"Action {request.action} is not known.", "approve, pause, resume or abort"
                )
        return await self._rollout(rollout)

    async def _rollout(self, rollout: Rollout) -> api_pb2.Rollout:
        names = await self._release_database.arun(references)
        return messages.rollout_message(rollout, names)
