"""What we use of other packages that they do not promise to keep; each of them has an upper bound for it."""

from __future__ import annotations

import inspect
import tomllib
from pathlib import Path

import numba
import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.cluster import ClusterMetadata
from kafka.consumer.fetcher import Fetcher
from kafka.net.connection import KafkaConnection
from kafka.net.manager import KafkaConnectionManager
from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport
from kafka.producer.sender import Sender
from kafka.producer.transaction_manager import TransactionManager
from llvmlite import ir
from numba import types
from numba.core.base import BaseContext
from numba.core.typing import templates
from numba.extending import models
from torch import nn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


@pytest.mark.parametrize("package", ["numba", "scikit-learn", "kafka-python", "uvicorn", "torch"])
def test_there_is_an_upper_bound(package: str) -> None:
    requirements = tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"]
    [requirement] = [text for text in requirements if text.partition("[")[0].partition(">")[0] == package]
    assert ",<" in requirement


def test_numba() -> None:
    function = numba.njit(abs_of, cache=True)
    version = function._cache._cache_file._version
    assert version == numba.__version__, "model.compiled adds to it what the sources are"
    for name in ("get_value_type", "get_dummy_value"):
        assert hasattr(BaseContext, name), f"model.kernel.vectors calls {name}"
    for name in ("ConcreteTemplate", "infer_global"):
        assert hasattr(templates, name), f"model.kernel.vectors defines operators by {name}"
    assert hasattr(models, "PrimitiveModel"), "model.kernel.vectors derives from it"
    assert hasattr(types, "CPointer"), "model.kernel.vectors makes addresses such pointers"


def abs_of(x: float) -> float:
    return abs(x)


def test_llvmlite() -> None:
    for name in ("VectorType", "FloatType", "IntType", "Constant", "Undefined"):
        assert hasattr(ir, name), f"model.kernel.vectors uses {name}"
    for name in ("fadd", "fsub", "fmul", "fcmp_ordered", "inttoptr", "insert_element", "extract_element",
                 "shuffle_vector"):  # fmt: skip
        assert hasattr(ir.IRBuilder, name), f"model.kernel.vectors calls {name}"
    parameters = inspect.signature(ir.IRBuilder.load).parameters
    assert "align" in parameters, "model.kernel.vectors loads from any address"


def test_uvicorn() -> None:
    overridden = (
        "connection_made", "connection_lost", "data_received", "on_message_begin", "on_header", "on_headers_complete",
        "on_body", "on_message_complete", "_start_asgi_task", "on_response_complete", "timeout_keep_alive_handler",
        "pause_writing", "resume_writing",
    )  # fmt: skip
    for name in (*overridden, "_unset_keepalive_if_required", "_unsupported_upgrade_warning"):
        assert hasattr(HttpToolsProtocol, name), f"service.connections.BoundedProtocol relies on {name}"
    source = inspect.getsource(HttpToolsProtocol.__init__)
    for name in ("client", "cycle", "flow", "headers", "loop", "parser", "pipeline", "transport"):
        assert f"self.{name}" in source, f"service.connections.BoundedProtocol reads {name}"
    assert hasattr(FlowControl, "pause_reading"), "service.connections ends a body that nobody reads by it"
    source = inspect.getsource(RequestResponseCycle.__init__)
    for name in ("disconnected", "keep_alive", "message_event", "more_body", "response_complete", "response_started"):
        assert f"self.{name}" in source, f"service.connections.BoundedProtocol reads {name} of a request"


def test_kafka_python() -> None:
    for client in (KafkaAdminClient, KafkaConsumer, KafkaProducer):
        network = client.DEFAULT_CONFIG["kafka_client"]
        assert "self._manager" in inspect.getsource(network.__init__), "consumer.kafka.open_client watches it connect"
    assert "allow_auto_create_topics" in ClusterMetadata.DEFAULT_CONFIG, "consumer.kafka.open_client turns it off"
    assert hasattr(KafkaConnectionManager, "get_connection"), "consumer.kafka.open_client replaces it for a while"
    for name in ("init_future", "connection_made"):
        assert hasattr(KafkaConnection, name), f"consumer.kafka learns by {name} why connecting failed"
    for transport in (KafkaTCPTransport, KafkaSSLTransport):
        assert hasattr(transport, "_sock_recv"), "consumer.kafka hands on what came before the end"
    assert "self._fetcher = Fetcher(" in inspect.getsource(KafkaConsumer.__init__), "consumer.kafka bounds its polls"
    source = inspect.getsource(Fetcher)
    for name in ("self.PartitionRecords(", "def fetched_records(self, max_records=None, update_offsets=True)",
                 "records_remaining -= self._append(drained,", "part.take(max_records)"):  # fmt: skip
        assert name in source, "consumer.kafka bounds its polls by it"
    source = inspect.getsource(Fetcher.PartitionRecords)
    for name in ("bytes_read", "record_iterator", "_next_inline_exception", "def _maybe_raise_next_inline_exception"):
        assert name in source, "consumer.kafka takes records by it"
    source = inspect.getsource(KafkaProducer.__init__)
    assert "self._sender = Sender(" in source, "consumer.kafka.close_producer closes it by force"
    assert hasattr(Sender, "force_close"), "consumer.kafka.close_producer closes it by force"
    assert "self._transaction_manager = TransactionManager(" in source, "consumer.fence reads its epoch"
    source = inspect.getsource(TransactionManager.__init__)
    assert "self.producer_id_and_epoch" in source, "consumer.fence reads it"


def test_torch() -> None:
    for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        hooks = getattr(nn.Embedding(1, 1), name)
        assert len(hooks) == 0, f"flexi_hash_embedding.embedding reads {name}"
