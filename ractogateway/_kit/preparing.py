"""From a caller's `ChatConfig` to a request that can be looked up and sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from ractogateway._checks import check_id, type_name
from ractogateway._kit.provider import Provider
from ractogateway._kit.request import RequestIdentity, identify, shaped, snapshot, toolbox
from ractogateway._schemas import Schema
from ractogateway.errors import InvalidTypeError
from ractogateway.messages import ChatConfig, Message
from ractogateway.prompts import RactoPrompt
from ractogateway.tools import Tool

__all__ = ["Preparation", "Request"]


class Request:
    """A request as it was when it came in. ``config`` is the kit's own copy: its owner may change the original.

    ``tools`` are those that can be run, by their names; in ``config`` there are definitions alone. ``schema`` is that
    of its ``response_model``.
    """

    def __init__(
        self,
        config: ChatConfig,
        tools: Mapping[str, Tool],
        schema: Schema | None,
        identify: Callable[[ChatConfig, Schema | None], RequestIdentity],
    ) -> None:
        self.config = config
        self.tools = tools
        self.schema = schema
        self._identify = identify

    @cached_property
    def identity(self) -> RequestIdentity:
        """What a cache knows it by.

        Raises:
            InvalidTypeError, InvalidValueError: It holds what cannot be sent.
        """
        return self._identify(self.config, self.schema)

    def having(self, **messages: list[Message | Mapping[str, Any]]) -> Request:
        """The same request with other messages in these fields of its config.

        Raises:
            InvalidTypeError, InvalidValueError: They cannot be sent.
        """
        update = {name: shaped(name, value) for name, value in messages.items()}
        return Request(self.config.model_copy(update=update), self.tools, self.schema, self._identify)


class Preparation:
    """What a kit decides about every request: the model, the prompt, and the provider's way to be asked."""

    def __init__(self, model: str, provider: Provider, default_prompt: RactoPrompt | None) -> None:
        if default_prompt is not None and not isinstance(default_prompt, RactoPrompt):
            raise InvalidTypeError(f"default_prompt must be a RactoPrompt or None, not {type_name(default_prompt)}")
        self.model = check_id("model", model)
        self._provider = provider
        self._default_prompt = default_prompt

    def prepare(self, config: ChatConfig) -> Request:
        """Copy and check a config. (Not its history: that may be the smaller part of the one that will be sent.)

        Raises:
            InvalidTypeError, InvalidValueError: It cannot be sent. Nothing was.
        """
        if not isinstance(config, ChatConfig):
            raise InvalidTypeError(f"config must be a ChatConfig, not {type_name(config)}")
        tools = toolbox(config)
        config = snapshot(config)
        self._provider.check(config)
        schema = None if config.response_model is None else Schema(config.response_model)
        return Request(config, tools, schema, self._identify)

    def after(self, request: Request, messages: Sequence[Message | Mapping[str, Any]]) -> Request:
        """The same request with ``messages`` before its own history."""
        if not messages:
            return request
        return request.having(history=[*messages, *request.config.history])

    def followed(self, request: Request, messages: Sequence[Message | Mapping[str, Any]]) -> Request:
        """The same request with ``messages`` behind the user's and what had followed it."""
        return request.having(following=[*request.config.following, *messages])

    def arguments(self, request: Request, *, stream: bool) -> dict[str, Any]:
        """Keyword arguments of the SDK's call."""
        return self._provider.arguments(
            request.config,
            model=self.model,
            system_prompt=request.identity.system_prompt,
            schema=request.schema,
            stream=stream,
        )

    def _identify(self, config: ChatConfig, schema: Schema | None) -> RequestIdentity:
        prompt = config.prompt if config.prompt is not None else self._default_prompt
        return identify(
            config,
            model=self.model,
            system_prompt="" if prompt is None else prompt.compile(),
            provider=self._provider.name,
            base_url=self._provider.address_key,
            silent=self._provider.silent,
            variant=self._provider.variant(config, self.model),
            schema=schema,
        )
