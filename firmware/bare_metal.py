"""What every environment shares: the processor's flags on compile and link, the project's start-up and linker script.

PlatformIO hands a build flag such as -mfpu to the compiler only; without it the linker picks a soft-float C library.
"""

from pathlib import Path

Import("env")  # noqa: F821 - PlatformIO's scripts get `env` this way

cpu = env.GetProjectOption("custom_cpu_flags").split()  # noqa: F821
memory = {key: env.GetProjectOption(f"custom_{key}").split() for key in ("flash", "ram")}  # noqa: F821

env.Append(  # noqa: F821
    ASFLAGS=cpu,
    CCFLAGS=cpu,
    LIBS=["m"],
    LINKFLAGS=[
        *cpu,
        "-nostartfiles",
        "-Wl,--gc-sections",
        *(f"-Wl,--defsym={key.upper()}_ORIGIN={origin}" for key, (origin, _) in memory.items()),
        *(f"-Wl,--defsym={key.upper()}_BYTES={size}" for key, (_, size) in memory.items()),
        "-T",
        str(Path(env.subst("$PROJECT_DIR")) / "link.ld"),  # noqa: F821
    ],
)
