"""The register of diagnostic codes, `code -> (title, explanation)`; `bnncc explain CODE` prints it.

E01 the ONNX file   E02 its operators   E03 lowering and exactness   E04 options and input data
E05 tools and simulator   E06 boards   E07 training and export   W warnings, numbered the same way
"""

CODES: dict[str, tuple[str, str]] = {
    # E01: the ONNX file
    # E02: operators
    # E03: lowering and exactness
    # E04: options and input data
    "E0401": (
        "unknown target",
        "--target takes a core (cortex-m4) or a board id; `bnncc targets` lists both. A core has an instruction set "
        "and a timing model; only a board has flash, RAM and a clock.",
    ),
    # E05: tools and simulator
    # E06: boards
    "E0601": (
        "the model is too large for the board",
        "The linker could not place the firmware with this model in the board's flash and RAM (of which 4 KiB are kept "
        "for the stack), or the finished program exceeds what targets/boards states. `bnncc compile --target BOARD` "
        "prints the model's own share.",
    ),
    "E0602": (
        "a tool for boards is missing",
        "Boards need PlatformIO, SCons and pyserial, which come with `pip install 'bnncc[board]'`; simulated boards "
        "also need arm-none-eabi-gcc and qemu-system-arm. `bnncc doctor` lists what is installed.",
    ),
    "E0603": (
        "the firmware does not build",
        "PlatformIO could not build the runner with the generated model; the end of its log is shown. A real board's "
        "platform is downloaded by PlatformIO the first time, which needs a network.",
    ),
    "E0604": (
        "the upload failed",
        "PlatformIO built the firmware but could not write it to the board; the end of its log is shown. Usually the "
        "board is not connected, or another program holds its debug probe.",
    ),
    "E0605": (
        "no serial port",
        "The board's serial port does not exist or may not be opened, or several ports look like the board's. A "
        "simulated board has a port from `bnncc flash` until it is stopped.",
    ),
    "E0606": (
        "the serial port is in use",
        "Another program, such as a serial monitor or a second bnncc, has the board's serial port open.",
    ),
    "E0607": (
        "the board does not answer",
        "No valid answer came within the time allowed, or the port vanished in the middle. Either the firmware on the "
        "board is not bnncc's, or the board hangs, or it was unplugged.",
    ),
    "E0608": (
        "other firmware on the board",
        "The board answers, but as another model, another version of the same model, or with another version of the "
        "protocol. Flash the model again.",
    ),
    "E0609": (
        "the board refused or failed",
        "The board answered a request with an error: it does not know the request or cannot serve it with this model, "
        "or its processor faulted while running the model. After a fault it restarts.",
    ),
    "E0610": (
        "no generated model to flash",
        "The folder given does not hold the NAME.h and NAME.c that `bnncc compile` writes.",
    ),
    "E0611": (
        "the build folder cannot be written",
        "PlatformIO builds in a folder under BNNCC_CACHE, else under ~/.cache/bnncc. The disk is full, or the folder "
        "is not the user's.",
    ),
    # E07: training and export
    # W: warnings
}
