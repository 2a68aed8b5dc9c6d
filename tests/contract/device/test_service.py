"""v1beta1.DevicePlugin as a kubelet meets it, on real sockets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from plugins.api.deviceplugin.v1beta1 import deviceplugin_pb2 as pb
from plugins.core import client
from plugins.device.encoding import LIMIT
from plugins.device.hardware import Device
from tests.contract.device.conftest import WAIT, Resource, Serve
from tests.unit.device.kit import device

NULL, ZERO = device("null", number=(1, 3)), device("zero", number=(1, 5))


def ids(message: pb.ListAndWatchResponse) -> list[str]:
    return sorted(d.ID for d in message.devices)


def until(lists: Iterator[pb.ListAndWatchResponse], wanted: list[str]) -> int:
    """Read until that list comes; returns how many messages that took."""
    for number, message in enumerate(lists, 1):
        if ids(message) == wanted:
            return number
    raise AssertionError(f"the stream ended before {wanted} came")


def refused(resource: Resource, *containers: list[str]) -> str:
    with pytest.raises(grpc.RpcError) as raised:
        resource.allocate(*containers)
    return client.reason(raised.value)


def test_options_announce_what_is_there(serve: Serve) -> None:
    stub = serve(NULL).stub()
    options = stub.GetDevicePluginOptions(pb.Empty(), timeout=WAIT)
    assert options.get_preferred_allocation_available
    assert not options.pre_start_required
    with pytest.raises(grpc.RpcError) as raised:
        stub.PreStartContainer(pb.PreStartContainerRequest(devices_ids=["null"]), timeout=WAIT)
    assert client.reason(raised.value).startswith("UNIMPLEMENTED")


def test_every_stream_sees_every_change(serve: Serve) -> None:
    """Two streams of one kubelet are open at a time after its restart: both have to be right."""
    resource = serve(NULL)
    streams = [resource.lists(), resource.lists()]
    for lists in streams:
        assert ids(next(lists)) == ["null"]
    changes: list[tuple[str, Device | None, list[str]]] = [
        (ZERO.sys_path, ZERO, ["null", "zero"]),
        (NULL.sys_path, None, ["zero"]),
        (ZERO.sys_path, None, []),
    ]
    for path, found, wanted in changes:
        resource.inventory.apply({path: found})
        for lists in streams:
            assert ids(next(lists)) == wanted


def test_an_empty_list_is_sent_at_once(serve: Serve) -> None:
    assert ids(next(serve().lists())) == []


def test_nothing_is_sent_where_the_kubelet_would_see_no_difference(serve: Serve) -> None:
    resource = serve(NULL)
    lists = resource.lists()
    next(lists)
    resource.inventory.apply({NULL.sys_path: device("null", number=(1, 3), properties={"X": "1"})})
    resource.inventory.apply({ZERO.sys_path: ZERO})
    assert ids(next(lists)) == ["null", "zero"]


def test_a_stream_that_is_slow_gets_the_newest_list_and_holds_nobody_back(serve: Serve) -> None:
    """200 kB a list: a reader that does not read fills its connection's window after one or two of them."""
    many = [device(f"a-rather-long-name-{n:05}-{'x' * 20}", number=(1, 3)) for n in range(4000)]
    resource = serve(*many)
    slow, quick = resource.lists(), resource.lists()
    next(slow)
    next(quick)
    everything = [d.sys_name for d in many]
    for number in range(40):
        resource.inventory.apply({NULL.sys_path: NULL if number % 2 == 0 else None})
        until(quick, sorted([*everything, "null"] if number % 2 == 0 else everything))
    resource.inventory.apply({ZERO.sys_path: ZERO})
    assert until(slow, sorted([*everything, "zero"])) < 10


def test_a_caller_that_goes_ends_its_stream(serve: Serve) -> None:
    resource = serve(NULL)
    first, second = resource.stub().ListAndWatch(pb.Empty()), resource.stub().ListAndWatch(pb.Empty())
    next(iter(first))
    next(iter(second))
    assert resource.watchers.wait(2)
    first.cancel()
    assert resource.watchers.wait(1)
    second.cancel()
    assert resource.watchers.wait(0)


def test_streams_end_well_when_the_daemon_drains(serve: Serve) -> None:
    resource = serve(NULL)
    lists = resource.lists()
    next(lists)
    resource.inventory.close()
    assert list(lists) == []
    assert resource.watchers.wait(0)
    assert list(resource.lists()) == []


def test_a_list_that_is_too_long_is_cut_to_what_a_kubelet_can_receive(serve: Serve) -> None:
    """The client here has the same limit as the kubelet's: 4 MiB."""
    resource = serve(*(device(f"{'x' * 40}{n:05}", number=(1, 3)) for n in range(75_000)))
    message = next(resource.lists())
    assert LIMIT - 100 < message.ByteSize() <= LIMIT
    assert len(message.devices) < 75_000


def test_a_container_gets_the_node_and_learns_its_path(serve: Serve) -> None:
    (response,) = serve(NULL, ZERO, permissions="rwm").allocate(["zero"]).container_responses
    assert [(d.host_path, d.container_path, d.permissions) for d in response.devices] == [
        ("/dev/zero", "/dev/zero", "rwm")
    ]
    assert dict(response.envs) == {"NODEPLUG_DEVICES_IT": "/dev/zero"}


def test_several_containers_in_one_call(serve: Serve) -> None:
    responses = serve(NULL, ZERO).allocate(["zero"], ["null"]).container_responses
    assert [[d.host_path for d in r.devices] for r in responses] == [["/dev/zero"], ["/dev/null"]]


@pytest.mark.parametrize(
    ("containers", "said"),
    [
        ([["null", "gone"]], "INVALID_ARGUMENT: nodeplug.internal/it: there is no device 'gone'"),
        ([["null", "null"]], "INVALID_ARGUMENT: nodeplug.internal/it: device 'null' is asked for twice"),
        ([["null"], ["null"]], "INVALID_ARGUMENT: nodeplug.internal/it: device 'null' is asked for twice"),
        ([[]], "INVALID_ARGUMENT: nodeplug.internal/it: a container asks for no device"),
        ([["broken"]], "FAILED_PRECONDITION: nodeplug.internal/it: device 'broken' cannot be used: lost"),
        (
            [["full"]],
            "FAILED_PRECONDITION: nodeplug.internal/it: device 'full' cannot be used: "
            "/dev/full is device 1:7, the one found was 1:3",
        ),
    ],
)
def test_refusals_name_the_resource_and_the_device(serve: Serve, containers: list[list[str]], said: str) -> None:
    broken = device("broken", number=(1, 3), problem="lost")
    resource = serve(NULL, broken, device("full", number=(1, 3)))
    assert refused(resource, *containers) == said


def test_a_link_or_a_file_in_the_place_of_a_node_is_never_handed_out(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("/dev/null")
    found = [device(name, number=(1, 3), node=str(tmp_path / name)) for name in ("file", "link")]
    resource = serve(*found)
    listed = ids(next(resource.lists()))
    for unit_id in listed:
        assert "FAILED_PRECONDITION" in refused(resource, [unit_id])
    assert sorted(resource.rechecked) == sorted(d.sys_path for d in found)


def test_the_preferred_choice(serve: Serve) -> None:
    stub = serve(NULL, ZERO, shares=2).stub()
    asked = pb.ContainerPreferredAllocationRequest(
        available_deviceIDs=["null-s0", "null-s1", "zero-s1"], must_include_deviceIDs=["null-s1"], allocation_size=2
    )
    reply = stub.GetPreferredAllocation(pb.PreferredAllocationRequest(container_requests=[asked]), timeout=WAIT)
    assert [list(r.deviceIDs) for r in reply.container_responses] == [["null-s1", "zero-s1"]]
    asked.allocation_size = 9
    with pytest.raises(grpc.RpcError) as raised:
        stub.GetPreferredAllocation(pb.PreferredAllocationRequest(container_requests=[asked]), timeout=WAIT)
    assert client.reason(raised.value).startswith("INVALID_ARGUMENT: nodeplug.internal/it: 9 devices")
