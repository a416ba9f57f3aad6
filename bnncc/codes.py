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
    "E0501": (
        "a command is not installed",
        "Compiling for a core needs arm-none-eabi-gcc with newlib, running without a board qemu-system-arm, and "
        "counting instructions the host's gcc. `bnncc doctor` lists what is missing.",
    ),
    "E0502": (
        "the C does not compile",
        "The cross compiler refused the generated C. It is meant to compile without a warning, so this is a defect of "
        "bnncc, or a compiler older than GCC 7.",
    ),
    "E0503": (
        "too large for the simulator",
        "The program with its weights and its context does not fit the memory of any of the core's QEMU machines. One "
        "eighth of RAM, 64 KiB at most, is kept for the stack.",
    ),
    "E0504": (
        "the program failed in the simulator",
        "It faulted (an instruction the core lacks, an unaligned access where the core has none, an address outside "
        "memory), overflowed its stack, or ended with an error. Its last lines say which.",
    ),
    "E0505": (
        "the program took too long in the simulator",
        "It was stopped. QEMU runs some hundred million instructions a second, fewer while it counts them.",
    ),
    "E0506": (
        "QEMU did not start",
        "QEMU ended before the program did anything: the machine is unknown to this version, or the counting plugin "
        "could not be loaded. QEMU 7.2 is known to work; the plugin is written for 4.2 to 8 and from 9.1 on.",
    ),
    "E0507": (
        "the counting plugin does not build",
        "Instructions are counted by a QEMU plugin, a C file that the host's gcc compiles on first use; the shared "
        "library is kept in ~/.cache/bnncc.",
    ),
    # E06: boards
    # E07: training and export
    # W: warnings
}
