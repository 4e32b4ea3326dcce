"""What operators can have done, by name: JSON in, JSON out; and what they do with terminals."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from pydantic import BaseModel, SecretBytes, SecretStr, ValidationError

from gateway.admin.access import Role
from gateway.admin.api import (
    Arguments,
    BadArguments,
    Progress,
)
from gateway.errors import NoSuchThing

Json = dict[str, Any]
ArgumentsT = TypeVar("ArgumentsT", bound=Arguments)


async def _nothing(_: Any) -> None:
    """There was nothing before."""


def _all(result: Any) -> object:
    return result


@dataclass(frozen=True, slots=True)
class Operation:
    """What one operation takes, the coroutine function that does it, and who may ask for it.

    `run` is called with the arguments and where to tell progress; where it `keeps_who`, also with
    the name of who asks, as `who`. The rest says what the audit log is told of it: the argument
    that names its subject, how things were before, what of the result, and which arguments are too
    long to be repeated. Secrets among the arguments are kept nowhere, so that with them it cannot
    wait for another operator: `instead` says what to do then.
    """

    arguments: type[Arguments]
    run: Callable[..., Awaitable[object]]
    role: Role = Role.VIEWER
    subject: str = ""
    old: Callable[[Any], Awaitable[object]] = _nothing
    told: Callable[[Any], object] = _all
    long: frozenset[str] = frozenset()
    keeps_who: bool = False
    instead: str = ""

    @property
    def changes(self) -> bool:
        """Whether it does more than look."""
        return self.role is not Role.VIEWER

    def subject_of(self, arguments: Arguments) -> str:
        return str(getattr(arguments, self.subject)) if self.subject else ""

    def shown(self, arguments: Arguments) -> Json:
        """The arguments as they are written down."""
        values = arguments.model_dump(mode="json")
        return {
            key: f"[{len(str(value))} characters]" if key in self.long else value
            for key, value in values.items()
        }


class Operations:
    """Operations by name.

    The daemon serves them; without a daemon a command builds them over the store itself, so both
    ways are one code.
    """

    def __init__(self, by_name: Mapping[str, Operation]) -> None:
        self._by_name = by_name

    async def run(
        self,
        name: str,
        arguments: Mapping[str, Any],
        progress: Progress | None = None,
        *,
        who: str = "",
    ) -> Json:
        """Do the operation and return its answer as JSON values.

        Raises NoSuchThing for an unknown name or device, BadArguments, OperatorError for what
        cannot be done, and StoreError.
        """
        operation = self.named(name)
        return await self.do(operation, self.parse(operation, arguments), progress, who=who)

    def named(self, name: str) -> Operation:
        """The operation of a name; raises NoSuchThing."""
        operation = self._by_name.get(name)
        if operation is None:
            raise NoSuchThing(f"no operation {name!r}; there are: {', '.join(self._by_name)}")
        return operation

    def parse(self, operation: Operation, arguments: Mapping[str, Any]) -> Arguments:
        """The arguments, checked; raises BadArguments."""
        return parse(operation.arguments, arguments)

    async def do(
        self,
        operation: Operation,
        arguments: Arguments,
        progress: Progress | None = None,
        *,
        who: str,
    ) -> Json:
        """Do an operation that was found with arguments that were parsed; `who` asks for it."""
        if operation.keeps_who:
            return cast("Json", await operation.run(arguments, progress, who=who))
        return cast("Json", await operation.run(arguments, progress))


def holds_secret(value: object) -> bool:
    """Whether something typed that must be kept nowhere is in arguments, or in a part of them."""
    if isinstance(value, SecretStr | SecretBytes):
        return bool(value.get_secret_value())
    if isinstance(value, BaseModel):
        return any(holds_secret(one) for _, one in value)
    if isinstance(value, Mapping):
        return any(map(holds_secret, value.values()))
    return isinstance(value, list | tuple) and any(map(holds_secret, value))


def parse(kind: type[ArgumentsT], arguments: Mapping[str, Any]) -> ArgumentsT:
    """Arguments of a kind; raises BadArguments, which repeats no value."""
    try:
        return kind.model_validate(dict(arguments))
    except ValidationError as error:
        problems = (
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)
        )
        raise BadArguments("; ".join(problems)) from None
