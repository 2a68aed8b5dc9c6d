"""The demo from its first folder to its last sweep."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from pathlib import Path

from plugins.core.errors import NodeplugError
from plugins.demo import devices, secret, volume, workspace
from plugins.demo.devices import DevicePart
from plugins.demo.interrupts import Interrupted, Interrupts
from plugins.demo.options import Options
from plugins.demo.report import Report, StepFailed, brief
from plugins.demo.secret import SecretPart
from plugins.demo.volume import VolumePart
from plugins.demo.world import World
from plugins.lab.errors import LabError
from plugins.lab.kubelet import Kubelet
from plugins.lab.processes import Supervisor

NEEDS_ROOT = "needs root: sudo ./dev demo"
_DAEMONS = {volume.PART: ("csi",), devices.PART: ("device",), secret.PART: ("kms",)}


def run(options: Options) -> int:
    """Everything; returns the exit code."""
    report = Report(colour=options.colour)
    with Interrupts() as interrupts:
        code, left = _in_a_folder(options, report, interrupts)
        if left:
            report.say("left behind, please look:", *(f"  {line}" for line in left))
            code = code or 1
        if not options.keep:
            _show(options, report, ok=code == 0)
    return code


def _in_a_folder(options: Options, report: Report, interrupts: Interrupts) -> tuple[int, list[str]]:
    """Signals raise inside the `allowed` block only: what was made before it is known, what comes after is clean-up."""
    root = workspace.make()
    try:
        with contextlib.ExitStack() as stack:
            kubelet = stack.enter_context(Kubelet(root / "kubelet"))
            supervisor = stack.enter_context(Supervisor(root / "logs", journal=kubelet.journal))
            world = World(root, report, interrupts, kubelet, supervisor)
            code = _guarded(options, world, stack)
    finally:
        left = workspace.sweep(root)
    return code, left


def _guarded(options: Options, world: World, stack: contextlib.ExitStack) -> int:
    try:
        with world.interrupts.allowed():
            _parts(options, world, stack)
    except StepFailed as failure:
        _explain(world, failure)
        return 1
    except (LabError, NodeplugError, OSError) as error:
        world.report.say(f"nodeplug demo: {error}")
        return 1
    except Interrupted as signal:
        world.report.say(f"{signal}: cleaning up")
        return 128 + signal.number
    return 0


def _parts(options: Options, world: World, stack: contextlib.ExitStack) -> None:
    """All daemons start at once; then each part waits for its own."""
    with world.report.step("daemons", "start as processes") as step:
        disk = VolumePart(world, options.data) if os.geteuid() == 0 else None
        device, kms = DevicePart(world), SecretPart(world)
        if disk:
            with world.interrupts.held():
                stack.callback(_orderly, disk)
            world.start(disk.process)
        world.start(device.process)
        kms.prepare()
        world.start(kms.process)
        step.result = ", ".join(f"{process.name} {process.pid}" for process in world.supervisor.processes)
    if disk:
        disk.run()
        if not options.keep:
            disk.remove()
    else:
        world.report.skip(volume.PART, NEEDS_ROOT)
    device.run()
    kms.run()
    if options.keep:
        _show(options, world.report, ok=True)
        _stay(world, disk)


def _show(options: Options, report: Report, *, ok: bool) -> None:
    if options.json:
        report.json(ok=ok)
    else:
        report.table()
    sys.stdout.flush()


def _orderly(disk: VolumePart) -> None:
    """The way back through the driver; what it does not manage, the sweep does."""
    with contextlib.suppress(LabError, NodeplugError, OSError):
        disk.undo()


def _stay(world: World, disk: VolumePart | None) -> None:
    """Leave it all running until somebody interrupts it."""
    script = Path(sys.executable).with_name("nodeplug")
    nodeplug = str(script) if script.exists() else " ".join(world.supervisor.command)
    lines = ["", f"Everything is running below {world.root}. To try, in another terminal:"]
    if disk and disk.mounted_at:
        lines += [f"  ls {disk.mounted_at}/data", f"  {nodeplug} csi volumes --state-dir {world.root}/csi"]
    lines += [
        f"  {nodeplug} device list --config {world.root}/device.toml",
        f"  {nodeplug} kms status {world.root}/kms.sock",
        f"  {nodeplug} kms rotate --keyring {world.root}/keyring.json",
        f"  {nodeplug} probe {world.root}/kms.sock",
        f"  tail -f {world.root}/logs/*.log",
        "ctrl-C ends it and removes everything.",
    ]
    world.report.say(*lines)
    try:
        threading.Event().wait()
    except Interrupted:  # the way in which this is meant to end
        world.report.say("cleaning up")


def _explain(world: World, failure: StepFailed) -> None:
    """The step, and what its daemon logged last."""
    report = world.report
    report.say("", f"failed: {failure.part}: {failure.step}: {failure.why}")
    for process in world.supervisor.processes:
        if process.name in _DAEMONS.get(failure.part, ()):
            if (code := process.exit_code()) is not None:
                report.say(f"the {process.name} daemon ended with exit code {code}")
            report.say(
                f"the {process.name} daemon's log ends with:", *(f"  {brief(line)}" for line in process.errors())
            )
