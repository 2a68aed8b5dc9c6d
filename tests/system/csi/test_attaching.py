"""The attach step, where a cluster wants one: who may stage what, and in which way."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from plugins.api.csi.v1 import csi_pb2 as pb
from plugins.csi import faultpoints as points
from tests.system.csi.kit import MULTI_WRITER, NODE, Driver, capability, dies, refused

ONCE = pb.VolumeCapability.AccessMode.SINGLE_NODE_SINGLE_WRITER
Rpc = pb.ControllerServiceCapability.RPC


@pytest.fixture
def attaching(make_driver: Callable[..., Driver]) -> Driver:
    """Not started yet."""
    return make_driver("attach=true", "volume_limit=3")


def attach(
    driver: Driver,
    volume: str,
    kind: str,
    node: str = NODE,
    *,
    read_only: bool = False,
    mode: pb.VolumeCapability.AccessMode.Mode.ValueType = MULTI_WRITER,
) -> None:
    request = pb.ControllerPublishVolumeRequest(volume_id=volume, node_id=node, readonly=read_only)
    request.volume_capability.CopyFrom(capability(kind, mode))
    driver.controller.ControllerPublishVolume(request, timeout=30)


def detach(driver: Driver, volume: str, node: str = NODE) -> None:
    request = pb.ControllerUnpublishVolumeRequest(volume_id=volume, node_id=node)
    driver.controller.ControllerUnpublishVolume(request, timeout=30)


def nodes(driver: Driver) -> dict[str, list[str]]:
    """Where each volume is attached; both ways of asking must agree."""
    found = {}
    for entry in driver.controller.ListVolumes(pb.ListVolumesRequest()).entries:
        request = pb.ControllerGetVolumeRequest(volume_id=entry.volume.volume_id)
        status = driver.controller.ControllerGetVolume(request).status
        assert list(entry.status.published_node_ids) == list(status.published_node_ids)
        found[entry.volume.volume_id] = list(status.published_node_ids)
    return found


def announced(driver: Driver) -> set[int]:
    response = driver.controller.ControllerGetCapabilities(pb.ControllerGetCapabilitiesRequest())
    return {c.rpc.type for c in response.capabilities}


@pytest.mark.parametrize("kind", ["block", "ext4"])
def test_a_volume_is_used_only_while_it_is_attached(attaching: Driver, kind: str) -> None:
    driver = attaching.start()
    volume = driver.create(kind)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "not attached"):
        driver.stage(volume, kind)
    assert nodes(driver) == {volume: []}
    for _ in range(3):
        attach(driver, volume, kind)
    assert nodes(driver) == {volume: [NODE]}
    driver.stage(volume, kind)
    driver.publish(volume, kind)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "staged"):
        detach(driver, volume)
    driver.unpublish(volume)
    driver.unstage(volume)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "attached"):
        driver.delete(volume)
    for _ in range(3):
        detach(driver, volume)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "not attached"):
        driver.stage(volume, kind)
    driver.delete(volume)
    detach(driver, volume)
    driver.assert_nothing_left()


@pytest.mark.parametrize("kind", ["block", "ext4"])
def test_what_is_attached_for_reading_is_not_written(attaching: Driver, kind: str) -> None:
    driver = attaching.start()
    volume = driver.create(kind)
    attach(driver, volume, kind, read_only=True)
    driver.stage(volume, kind)
    driver.publish(volume, kind, read_only=False)
    with pytest.raises(OSError):
        driver.write(kind, b"x")
    with refused(grpc.StatusCode.ALREADY_EXISTS):
        attach(driver, volume, kind)
    driver.unpublish(volume)
    driver.unstage(volume)
    detach(driver, volume)
    driver.delete(volume)
    driver.assert_nothing_left()


def test_what_does_not_fit_is_refused(attaching: Driver) -> None:
    driver = attaching.start()
    volume = driver.create("block")
    with refused(grpc.StatusCode.NOT_FOUND, "elsewhere"):
        attach(driver, volume, "block", "elsewhere")
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "node_id"):
        attach(driver, volume, "block", "")
    with refused(grpc.StatusCode.FAILED_PRECONDITION):
        attach(driver, volume, "ext4")
    with refused(grpc.StatusCode.INVALID_ARGUMENT):
        attach(driver, volume, "block", mode=pb.VolumeCapability.AccessMode.MULTI_NODE_MULTI_WRITER)
    with refused(grpc.StatusCode.NOT_FOUND):
        attach(driver, f"vol-00000000000000000000.{NODE}", "block")
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "other-node"):
        attach(driver, "vol-00000000000000000000.other-node", "block")
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "other-node"):
        detach(driver, "vol-00000000000000000000.other-node")
    attach(driver, volume, "block")
    with refused(grpc.StatusCode.ALREADY_EXISTS):
        attach(driver, volume, "block", mode=ONCE)
    detach(driver, volume, "elsewhere")
    assert nodes(driver) == {volume: [NODE]}
    detach(driver, volume, "")
    assert nodes(driver) == {volume: []}
    driver.delete(volume)


def test_the_limit_of_the_node_holds_whoever_comes_at_once(attaching: Driver) -> None:
    driver = attaching.start()
    volumes = [driver.create("block", f"volume-{number}") for number in range(6)]

    def try_it(volume: str) -> grpc.StatusCode:
        try:
            attach(driver, volume, "block")
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    with ThreadPoolExecutor(6) as pool:
        codes = list(pool.map(try_it, volumes))
    assert codes.count(grpc.StatusCode.OK) == codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 3
    for volume in volumes:
        detach(driver, volume)
        driver.delete(volume)
    driver.assert_nothing_left()


@pytest.mark.parametrize("point", [*points.ATTACH, *points.DETACH])
def test_killed_after_it_was_recorded(attaching: Driver, point: str) -> None:
    driver = attaching.start(fault=point)
    volume = driver.create("block")
    with dies(driver):
        attach(driver, volume, "block")
        detach(driver, volume)
    driver.restart()
    attach(driver, volume, "block")
    assert nodes(driver) == {volume: [NODE]}
    detach(driver, volume)
    driver.delete(volume)
    driver.assert_nothing_left()


def test_without_the_step_there_is_none(driver: Driver) -> None:
    volume = driver.create("block")
    kinds = {Rpc.PUBLISH_UNPUBLISH_VOLUME, Rpc.PUBLISH_READONLY, Rpc.LIST_VOLUMES_PUBLISHED_NODES}
    assert not kinds & announced(driver)
    with refused(grpc.StatusCode.UNIMPLEMENTED, "attach = false"):
        attach(driver, volume, "block")
    with refused(grpc.StatusCode.UNIMPLEMENTED, "attach = false"):
        detach(driver, volume)
    driver.restart().stop()
    driver.settings = (*driver.settings, "attach=true")
    driver.start()
    assert kinds <= announced(driver)
    driver.delete(volume)
