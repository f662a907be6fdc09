"""The Open Inference Protocol's messages for gRPC, by their public names and field numbers.

They are made when this module is imported: code that protoc generates fits few releases of protobuf.
"""

from __future__ import annotations

import re
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "inference.GRPCInferenceService"

CONFIG_DATATYPES = (
    "INVALID", "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64"
)  # fmt: skip
"""Triton's numbers for datatypes: the index in it is what a configuration's `data_type` holds."""

# A field is NAME TYPE NUMBER, with [] where it is repeated. A map is repeated too: on the wire it is a list of entries.
_DEFINITIONS = """
ServerLiveRequest:
ServerLiveResponse: live bool 1
ServerReadyRequest:
ServerReadyResponse: ready bool 1
ModelReadyRequest: name string 1, version string 2
ModelReadyResponse: ready bool 1
ServerMetadataRequest:
ServerMetadataResponse: name string 1, version string 2, extensions string[] 3
ModelMetadataRequest: name string 1, version string 2
ModelMetadataResponse: name string 1, versions string[] 2, platform string 3, inputs Metadata[] 4, outputs Metadata[] 5
Metadata: name string 1, datatype string 2, shape int64[] 3
ModelConfigRequest: name string 1, version string 2
ModelConfigResponse: config ModelConfig 1
ModelConfig: name string 1, platform string 2, backend string 17, max_batch_size int32 4, input ConfigTensor[] 5,
    output ConfigOutput[] 6, parameters ConfigParameters[] 14
ConfigTensor: name string 1, data_type int32 2, dims int64[] 4
ConfigOutput: name string 1, data_type int32 2, dims int64[] 3
ConfigParameters: key string 1, value ConfigParameter 2
ConfigParameter: string_value string 1
RepositoryIndexRequest: repository_name string 1, ready bool 2
RepositoryIndexResponse: models ModelIndex[] 1
ModelIndex: name string 1, version string 2, state string 3, reason string 4
InferParameter: bool_param bool 1, int64_param int64 2, string_param string 3, double_param double 4,
    uint64_param uint64 5
Parameters: key string 1, value InferParameter 2
InferTensorContents: bool_contents bool[] 1, int_contents int32[] 2, int64_contents int64[] 3, uint_contents uint32[] 4,
    uint64_contents uint64[] 5, fp32_contents float[] 6, fp64_contents double[] 7, bytes_contents bytes[] 8
InferTensor: name string 1, datatype string 2, shape int64[] 3, parameters Parameters[] 4,
    contents InferTensorContents 5
InferRequestedOutput: name string 1, parameters Parameters[] 2
ModelInferRequest: model_name string 1, model_version string 2, id string 3, parameters Parameters[] 4,
    inputs InferTensor[] 5, outputs InferRequestedOutput[] 6, raw_input_contents bytes[] 7
ModelInferResponse: model_name string 1, model_version string 2, id string 3, parameters Parameters[] 4,
    outputs InferTensor[] 5, raw_output_contents bytes[] 6
"""


def _make() -> dict[str, Any]:
    """The messages' classes by name.

    By the rules of edition 2023 a field of value 0 is told from one that is not there, and text that is not UTF-8 is
    no message.
    """
    file = descriptor_pb2.FileDescriptorProto(
        name="sorl_open_inference.proto", package="sorl", syntax="editions", edition=descriptor_pb2.EDITION_2023
    )
    field_type = descriptor_pb2.FieldDescriptorProto
    scalars = {"bool", "bytes", "double", "float", "int32", "int64", "string", "uint32", "uint64"}
    for name, fields in re.findall(r"^(\w+):(.*(?:\n    .*)*)", _DEFINITIONS, re.MULTILINE):
        message = file.message_type.add(name=name)
        for field, kind, repeated, number in re.findall(r"(\w+) (\w+)(\[\])? (\d+)", fields):
            label = field_type.LABEL_REPEATED if repeated else field_type.LABEL_OPTIONAL
            added = message.field.add(name=field, number=int(number), label=label)
            added.type = field_type.Type.Value(f"TYPE_{kind.upper()}") if kind in scalars else field_type.TYPE_MESSAGE
            if kind not in scalars:
                added.type_name = f".sorl.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    described = pool.FindFileByName(file.name).message_types_by_name
    return {name: message_factory.GetMessageClass(message) for name, message in described.items()}


MESSAGES = _make()
