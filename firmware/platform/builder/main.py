"""Build with the system's arm-none-eabi-gcc; upload to QEMU. bare_metal.py adds the processor's flags."""

from os.path import join

from SCons.Script import COMMAND_LINE_TARGETS, AlwaysBuild, Default, DefaultEnvironment

env = DefaultEnvironment()
platform = env.PioPlatform()
board = env.BoardConfig()

tools = {
    "AR": "gcc-ar",
    "AS": "as",
    "CC": "gcc",
    "CXX": "g++",
    "OBJCOPY": "objcopy",
    "RANLIB": "gcc-ranlib",
    "SIZETOOL": "size",
}
env.Replace(**{variable: f"arm-none-eabi-{tool}" for variable, tool in tools.items()})
env.Replace(
    ARFLAGS=["rc"],
    PROGNAME="firmware",
    PROGSUFFIX=".elf",
    SIZEPROGREGEXP=r"^(?:\.text|\.data|\.ARM\.exidx)\s+(\d+).*",
    SIZEDATAREGEXP=r"^(?:\.data|\.bss|\.stack)\s+(\d+).*",
    SIZECHECKCMD="$SIZETOOL -A -d $SOURCES",
    SIZEPRINTCMD="$SIZETOOL -B -d $SOURCES",
    UPLOADER=join(platform.get_dir(), "simboard.py"),
    UPLOADCMD='"$PYTHONEXE" "$UPLOADER" start --machine $MACHINE --port "$UPLOAD_PORT" --elf "$SOURCE"',
    MACHINE=board.get("build.qemu_machine"),
)
env.Append(
    CCFLAGS=["-ffunction-sections", "-fdata-sections"],
    LINKFLAGS=["--specs=nano.specs"],
)

elf = join("$BUILD_DIR", "${PROGNAME}.elf") if "nobuild" in COMMAND_LINE_TARGETS else env.BuildProgram()
AlwaysBuild(env.Alias("nobuild", elf))
program = env.Alias("buildprog", elf, elf)
size = AlwaysBuild(env.Alias("size", elf, env.VerboseAction("$SIZEPRINTCMD", "Sizes of $SOURCE")))
AlwaysBuild(env.Alias("upload", elf, env.VerboseAction("$UPLOADCMD", "Starting $SOURCE in QEMU")))
Default([program, size])
