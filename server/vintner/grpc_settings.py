"""Triton's messages of log and trace settings to and from plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vintner.errors import InvalidArgument
from vintner.log_settings import Setting
from vintner.pb import grpc_service_pb2 as pb


def decode_log(message: pb.LogSettingsRequest) -> Mapping[str, Setting]:
    """Raises InvalidArgument for a setting without a value."""
    changes = {}
    for name, value in message.settings.items():
        kind = value.WhichOneof("parameter_choice")
        if kind is None:
            raise InvalidArgument(f"log setting '{name}' has no value")
        changes[name] = getattr(value, kind)
    return changes


def encode_log(settings: Mapping[str, Setting]) -> pb.LogSettingsResponse:
    kinds = {bool: "bool_param", int: "uint32_param", str: "string_param"}
    message = pb.LogSettingsResponse()
    for name, value in settings.items():
        setattr(message.settings[name], kinds[type(value)], value)
    return message


def decode_trace(message: pb.TraceSettingRequest) -> Mapping[str, Sequence[str]]:
    return {name: list(setting.value) for name, setting in message.settings.items()}


def encode_trace(settings: Mapping[str, Sequence[str]]) -> pb.TraceSettingResponse:
    message = pb.TraceSettingResponse()
    for name, values in settings.items():
        message.settings[name].value.extend(values)
    return message
