#!/usr/bin/env python3
"""A simulated board: QEMU in the background, its UART on a pty to which the path PORT is a link.

    simboard.py start --machine mps2-an386 --port PORT --elf firmware.elf   as if it had been flashed and reset
    simboard.py status --port PORT                                          exit code 0: it runs, 1: it does not
    simboard.py stop --port PORT                                            as if it had been unplugged

PORT.qmp is QEMU's control socket. Whether the board runs is asked there, and it is ended there: no process ids, which
go stale and are given to others. Needs the standard library only.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

SECONDS = 10.0


class Control:
    """A connection to QEMU's control socket (QMP). Raises OSError where there is none."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        try:
            self.socket.settimeout(SECONDS)
            self.socket.connect(path)
            self.stream = self.socket.makefile("rw", encoding="utf-8")
            self.stream.readline()  # the greeting
            self.ask("qmp_capabilities")
        except BaseException:
            self.socket.close()
            raise

    def ask(self, command):
        self.stream.write(json.dumps({"execute": command}) + "\n")
        self.stream.flush()
        for line in self.stream:
            message = json.loads(line)
            if "event" not in message:
                return message["return"]
        raise ConnectionError("QEMU closed its control socket")

    def close(self):
        self.stream.close()
        self.socket.close()


def connect(port):
    """The control connection of the board at `port`, or None if no board runs there."""
    try:
        return Control(f"{port}.qmp")
    except (FileNotFoundError, ConnectionError):
        return None


def clean(port):
    for path in (port, f"{port}.qmp", f"{port}.log"):
        Path(path).unlink(missing_ok=True)


def stop(port):
    """End the board at `port`; what a board that died left behind goes too. True if one was running."""
    control = connect(port)
    if control:
        try:
            control.ask("quit")
            while control.stream.readline():  # until QEMU is gone
                pass
        except ConnectionError:
            pass
        control.close()
    clean(port)
    return control is not None


def start(port, machine, elf):
    """Start `elf` on the QEMU machine, in place of whatever ran at `port`."""
    stop(port)
    command = ["qemu-system-arm", "-machine", machine, "-kernel", elf, "-display", "none", "-monitor", "none"]
    command += ["-serial", "pty", "-qmp", f"unix:{port}.qmp,server=on,wait=off"]
    with open(f"{port}.log", "wb") as log:
        qemu = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, close_fds=True
        )
    deadline = time.monotonic() + SECONDS
    while not (control := connect(port)):
        if qemu.poll() is not None or time.monotonic() > deadline:
            qemu.kill()
            message = Path(f"{port}.log").read_text(encoding="utf-8", errors="replace")
            clean(port)
            sys.exit(f"QEMU did not start: {message}")
        time.sleep(0.02)
    devices = {device["label"]: device["filename"] for device in control.ask("query-chardev")}
    control.close()
    pty = devices["serial0"].removeprefix("pty:")
    os.symlink(pty, port)
    print(f"simulated board {machine} at {Path.cwd() / port} ({pty})")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["start", "status", "stop"])
    parser.add_argument("--port", required=True)
    parser.add_argument("--machine")
    parser.add_argument("--elf")
    options = parser.parse_args()
    elf = options.elf and str(Path(options.elf).resolve())
    port = Path(options.port)
    if options.command == "start":
        port.parent.mkdir(parents=True, exist_ok=True)
    elif not port.parent.is_dir():
        return 1
    os.chdir(port.parent)  # a socket's path may have 107 bytes only
    if options.command == "start":
        start(port.name, options.machine, elf)
        return 0
    if options.command == "stop":
        return 0 if stop(port.name) else 1
    control = connect(port.name)
    if control:
        control.close()
    return 0 if control else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OSError as error:
        sys.exit(f"simulated board: {error}")
