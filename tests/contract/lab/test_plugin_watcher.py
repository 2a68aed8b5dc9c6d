"""The lab's plugin watcher does to a registration socket what the kubelet does."""

from __future__ import annotations

import dataclasses
import os
import socket
from pathlib import Path

import pytest

from plugins.lab.kubelet import Kubelet
from tests.contract.lab.conftest import QUICK
from tests.contract.lab.fakes import FakeCsi, FakeRegistration, Servers, csi_driver

NAME = "csi.example.org"
WAIT = 10.0


def csi_plugin(
    kubelet: Kubelet, servers: Servers, *, driver: FakeCsi | None = None, name: str = NAME, socket_name: str = ""
) -> tuple[FakeRegistration, Path]:
    endpoint = kubelet.root / "plugins" / name / "csi.sock"
    servers.serve(endpoint, (driver or csi_driver()).add)
    registration = FakeRegistration("CSIPlugin", name, endpoint)
    path = kubelet.root / "plugins_registry" / (socket_name or f"{name}-reg.sock")
    servers.serve(path, registration.add)
    return registration, path


def let_a_round_pass(kubelet: Kubelet, servers: Servers) -> None:
    """A plugin that comes now is registered: so the watcher has seen all that was there before it."""
    csi_plugin(kubelet, servers, name="other.example.org")
    kubelet.wait_registered("other.example.org", timeout=WAIT)


def test_a_good_driver_is_registered_and_stands_in_csinode(kubelet: Kubelet, servers: Servers) -> None:
    driver = csi_driver(topology={"example.org/node": "one"})
    registration, _ = csi_plugin(kubelet, servers, driver=driver)
    kubelet.wait_registered(NAME, timeout=WAIT)
    entry = kubelet.node.drivers[NAME]
    assert (entry.node_id, dict(entry.topology)) == ("node-1", {"example.org/node": "one"})
    assert kubelet.node.labels == {"example.org/node": "one"}
    assert registration.verdicts == [(True, "")]
    assert kubelet.journal.events("unregister") == []


def test_a_socket_renamed_into_the_folder_counts_and_hidden_names_do_not(kubelet: Kubelet, servers: Servers) -> None:
    registration, path = csi_plugin(kubelet, servers, socket_name=".hidden.sock")
    let_a_round_pass(kubelet, servers)
    assert registration.asked == 0
    path.rename(path.with_name("shown.sock"))
    kubelet.wait_registered(NAME, timeout=WAIT)


def test_a_socket_in_a_new_sub_folder_counts_and_a_plain_file_does_not(kubelet: Kubelet, servers: Servers) -> None:
    (kubelet.root / "plugins_registry" / "file.sock").write_text("no socket")
    csi_plugin(kubelet, servers, socket_name="sub/folder/x.sock")
    kubelet.wait_registered(NAME, timeout=WAIT)
    assert kubelet.journal.events("registration_failed") == []


def test_a_removed_socket_takes_the_driver_off_csinode(kubelet: Kubelet, servers: Servers) -> None:
    _, path = csi_plugin(kubelet, servers)
    kubelet.wait_registered(NAME, timeout=WAIT)
    path.unlink()
    kubelet.journal.wait("unregister", NAME, timeout=WAIT)
    assert NAME not in kubelet.node.drivers


def test_a_socket_made_anew_costs_an_unregister_and_a_register(kubelet: Kubelet, servers: Servers) -> None:
    registration, path = csi_plugin(kubelet, servers)
    kubelet.wait_registered(NAME, timeout=WAIT)
    mark = kubelet.journal.mark()
    hidden = path.with_name(".new.sock")
    servers.serve(hidden, registration.add)
    hidden.rename(path)  # over the old one: no Remove event, a Create only
    kubelet.wait_registered(NAME, timeout=WAIT, since=mark)
    assert [e.kind for e in kubelet.journal.events(since=mark) if e.kind != "csinode"] == ["unregister", "register"]


def test_a_socket_moved_away_is_not_noticed(kubelet: Kubelet, servers: Servers, folder: Path) -> None:
    _, path = csi_plugin(kubelet, servers)
    kubelet.wait_registered(NAME, timeout=WAIT)
    path.rename(folder / "elsewhere.sock")
    let_a_round_pass(kubelet, servers)
    assert kubelet.journal.events("unregister") == []


def test_the_same_socket_served_by_another_process_costs_nothing(
    kubelet: Kubelet, servers: Servers, folder: Path
) -> None:
    """A hand-over passes the listening descriptor on: the path keeps its inode, and the kubelet does not look again."""
    path = kubelet.root / "plugins_registry" / "kept.sock"
    endpoint = kubelet.root / "plugins" / NAME / "csi.sock"
    servers.serve(endpoint, csi_driver().add)
    first = FakeRegistration("CSIPlugin", NAME, endpoint)
    server = servers.serve(folder / "hidden.sock", first.add)
    os.link(folder / "hidden.sock", path)
    kubelet.wait_registered(NAME, timeout=WAIT)
    server.stop(None).wait()
    let_a_round_pass(kubelet, servers)
    assert kubelet.journal.events("unregister") == []
    assert first.asked == 1


def test_a_hanging_get_info_is_given_up_and_tried_again_with_back_off(folder: Path, servers: Servers) -> None:
    root = folder / "k"
    endpoint = root / "plugins" / NAME / "csi.sock"
    servers.serve(endpoint, csi_driver().add)
    registration = FakeRegistration("CSIPlugin", NAME, endpoint)
    registration.hang.clear()
    servers.serve(root / "plugins_registry" / "slow.sock", registration.add)
    with Kubelet(root, timings=dataclasses.replace(QUICK, get_info=0.2)) as kubelet:
        first = kubelet.journal.wait("registration_failed", timeout=WAIT)
        mark = kubelet.journal.mark()
        second = kubelet.journal.wait("registration_failed", since=mark, timeout=WAIT)
        assert "DeadlineExceeded" in first["error"]
        assert second["retry_after"] == 2 * first["retry_after"]
        registration.hang.set()
        kubelet.wait_registered(NAME, timeout=WAIT)


def test_a_file_with_nobody_behind_it_is_dialled_for_the_whole_time(folder: Path) -> None:
    registry = folder / "k" / "plugins_registry"
    registry.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(registry / "dead.sock"))
    with Kubelet(folder / "k", timings=dataclasses.replace(QUICK, dial=0.2)) as kubelet:
        failed = kubelet.journal.wait("registration_failed", timeout=WAIT)
    assert "failed to dial socket" in failed["error"]


@pytest.mark.parametrize(
    ("kind", "versions", "words"),
    [
        ("NoPlugin", ("1.0.0",), "no handler registered for plugin type: NoPlugin"),
        ("CSIPlugin", (), "empty list for supported versions"),
        ("CSIPlugin", ("2.0.0",), "are supported"),
        ("DRAPlugin", ("1.0.0",), "none of services supported by the plugin"),
        ("DevicePlugin", ("v1alpha1",), "is not supported by kubelet"),
        ("DevicePlugin", ("v1beta1",), "is invalid"),
    ],
)
def test_what_is_not_valid_is_refused_and_told(
    kubelet: Kubelet, servers: Servers, kind: str, versions: tuple[str, ...], words: str
) -> None:
    registration = FakeRegistration(kind, "not-a-resource", "/nowhere", versions)
    servers.serve(kubelet.root / "plugins_registry" / "x.sock", registration.add)
    failed = kubelet.journal.wait("registration_failed", timeout=WAIT)
    assert words in failed["error"]
    assert registration.verdicts[0][0] is False
    assert words in registration.verdicts[0][1]


def test_a_driver_without_a_node_id_is_refused(kubelet: Kubelet, servers: Servers) -> None:
    registration, _ = csi_plugin(kubelet, servers, driver=csi_driver(node_id=""))
    kubelet.journal.wait("registration_failed", timeout=WAIT)
    assert "driverNodeID must not be empty" in registration.verdicts[0][1]
    assert kubelet.node.drivers == {}


def test_a_driver_whose_endpoint_nobody_serves_is_refused(kubelet: Kubelet, servers: Servers) -> None:
    registration = FakeRegistration("CSIPlugin", NAME, "/nowhere/csi.sock")
    servers.serve(kubelet.root / "plugins_registry" / "x.sock", registration.add)
    failed = kubelet.journal.wait("registration_failed", timeout=WAIT)
    assert "Unavailable" in failed["error"]


def test_a_second_registration_socket_for_one_driver_is_refused(kubelet: Kubelet, servers: Servers) -> None:
    csi_plugin(kubelet, servers, socket_name="one.sock")
    kubelet.wait_registered(NAME, timeout=WAIT)
    again = FakeRegistration("CSIPlugin", NAME, kubelet.root / "plugins" / NAME / "csi.sock")
    servers.serve(kubelet.root / "plugins_registry" / "two.sock", again.add)
    kubelet.journal.wait("registration_failed", timeout=WAIT)
    assert "already registered" in again.verdicts[0][1]


def test_a_notification_that_fails_deregisters(kubelet: Kubelet, servers: Servers) -> None:
    endpoint = kubelet.root / "plugins" / NAME / "csi.sock"
    servers.serve(endpoint, csi_driver().add)
    registration = FakeRegistration("CSIPlugin", NAME, endpoint)
    registration.refuse_notify = True
    servers.serve(kubelet.root / "plugins_registry" / "x.sock", registration.add)
    failed = kubelet.journal.wait("registration_failed", timeout=WAIT)
    assert "failed to send registration status" in failed["error"]
    assert kubelet.registered() == []
    assert kubelet.node.drivers == {}


def test_csinode_outlives_the_kubelet_and_the_driver_registers_again(kubelet: Kubelet, servers: Servers) -> None:
    csi_plugin(kubelet, servers)
    kubelet.wait_registered(NAME, timeout=WAIT)
    mark = kubelet.journal.mark()
    kubelet.restart()
    assert NAME in kubelet.node.drivers
    kubelet.wait_registered(NAME, timeout=WAIT, since=mark)
    assert kubelet.journal.events("unregister") == []


def test_several_instances_of_a_dra_driver_may_register(kubelet: Kubelet, servers: Servers) -> None:
    for number in ("one", "two"):
        registration = FakeRegistration("DRAPlugin", "gpu.example.org", f"/run/{number}.sock", ("v1.DRAPlugin",))
        servers.serve(kubelet.root / "plugins_registry" / f"{number}.sock", registration.add)
    kubelet.journal.until(
        lambda: len(kubelet.dra.endpoints("gpu.example.org")) == 2, timeout=WAIT, what="both instances"
    )
