"""The register of diagnostic codes, `code -> (title, explanation)`; `bnncc explain CODE` prints it.

E01 the ONNX file   E02 its operators   E03 lowering and exactness   E04 options and input data
E05 tools and simulator   E06 boards   E07 training and export   W warnings, numbered the same way
"""

CODES: dict[str, tuple[str, str]] = {
    "E0000": (
        "internal error",
        "Something happened that bnncc did not expect: a defect of bnncc, whatever the model is. Run again with "
        "BNNCC_TRACEBACK=1 and report what it prints, with the model if you can share it.",
    ),
    # E01: the ONNX file
    "E0101": (
        "the model cannot be read",
        "The path does not exist, is a folder or no file at all, or may not be read.",
    ),
    "E0102": (
        "not a valid ONNX file",
        "The bytes are no ONNX model, or the model breaks the ONNX specification (a cycle, a value read "
        "before it is made, an attribute of the wrong type, a function that calls itself). `python -m onnx.checker` "
        "tells most of these too.",
    ),
    "E0103": (
        "unsupported opset",
        "bnncc reads the default ONNX operator set from version 9 to the newest that the installed onnx package knows.",
    ),
    "E0104": (
        "absurd dimensions",
        "A tensor, or all constants that are computed, would take more than 512 MiB, or a tensor that depends on the input has more "
        "than 2**23 values, which no microcontroller holds. An ONNX file is untrusted: sizes are checked before anything is allocated.",
    ),
    "E0105": (
        "shapes do not fit",
        "ONNX shape inference failed, a shape is not static, or a layer's parameters do not fit its input. "
        "bnncc compiles one sample: batch 1, fixed sizes, images, sequences or vectors.",
    ),
    "E0106": (
        "an initializer cannot be read",
        "The data of an initializer do not match its type and dimensions, are no numbers of at least 8 bits, or lie in a file "
        "that is missing, too short or outside of the model's folder.",
    ),
    "E0107": (
        "constants cannot be evaluated",
        "Parts of the graph that do not depend on the input are evaluated once by onnxruntime; it refused. Or they hold an "
        "operator that is not evaluated, because it is random or can take too long.",
    ),
    # E02: operators
    "E0201": (
        "unsupported operator",
        "The node, or this use of it, is outside of what bnncc lowers to C. docs/operators.md lists what is supported.",
    ),
    "E0202": (
        "a parameter is not constant",
        "Weights, biases and BatchNorm parameters must be initializers or computed from initializers alone.",
    ),
    "E0203": (
        "a layer is multiplied by zero",
        "The alpha of a Gemm is 0, so that its weights count for nothing. Weights themselves may be of any kind: those of one "
        "magnitude an output channel, +s and -s, are binary, others real.",
    ),
    "E0204": (
        "unsupported reshape",
        "A tensor has at most four axes, with a batch of 1 in front: [1, C, H, W], [1, C, L] or [1, N]. Five axes are read "
        "in a channel shuffle alone.",
    ),
    "E0205": (
        "unsupported broadcasting",
        "An elementwise constant must not enlarge the tensor: a scalar, one value per channel, or the tensor's own shape. "
        "Of two tensors, both have one shape, or one of them holds one value per channel.",
    ),
    "E0207": (
        "unsupported input",
        "A model has one input: float, uint8 or int8, of shape [1, C, H, W], [1, C, L] or [1, N], or with its channels last.",
    ),
    "E0208": (
        "unsupported output",
        "An output must be a tensor that depends on the input, listed once: logits, accumulators or signs.",
    ),
    "E0209": (
        "the exits are not well described",
        "metadata_props hold bnncc.exits (a JSON list of all output names in order of depth), bnncc.exit_rule "
        "(entropy) and bnncc.exit_threshold (nats). Exits are logits [1, K].",
    ),
    "E0210": (
        "a function contradicts its operator",
        "The file defines an ONNX function under the name of an operator of QONNX, Brevitas or FINN, and the function "
        "computes something else: onnxruntime and qonnx would not agree about the model.",
    ),
    # E03: lowering and exactness
    "E0306": (
        "a weight does not fit its storage",
        "--real-weights f16 stores weights in half precision, whose largest value is 65504 and whose smallest is 6e-8. Use f32, or "
        "i8, which scales each output channel. Weights that would all become zero are refused.",
    ),
    "E0307": (
        "the model does not fit the RAM budget",
        "Tensors that are alive at once, with the scratch of the smallest kernels, take more than --ram-budget. The memory picture "
        "(`bnncc compile --memory`) shows the step that holds most.",
    ),
    "E0308": (
        "onnxruntime cannot run the model",
        "The reference of every verification is onnxruntime; without it nothing can be said about the C.",
    ),
    "E0309": (
        "the generated C does not compile",
        "The host compiler refused generated code. That is a defect of bnncc.",
    ),
    "E0310": (
        "the generated C misbehaved",
        "The generated code read or wrote outside its memory, met undefined behaviour, or left padding bits "
        "set. That is a defect of bnncc.",
    ),
    "E0301": (
        "parameters are not finite",
        "A weight, bias or BatchNorm parameter is NaN or infinite, a variance plus epsilon is not positive, "
        "or a division by zero stands in the graph. Such a network computes nothing useful, and no threshold "
        "can stand for it.",
    ),
    "E0302": (
        "accumulator beyond 2**24",
        "onnxruntime sums in float32, which holds integers exactly up to 2**24. Beyond, no integer result "
        "could be equal to it bit for bit.",
    ),
    "E0303": (
        "integers that the file rounds",
        "The layer sums integers, but in the file they are multiplied by a number that is no power of two, and are so large "
        "that float32 rounding could turn one into the next. No integer result could be compared with the file.",
    ),
    "E0304": (
        "sign can meet zero",
        "ONNX Sign(0) is 0, which is not binary. Of integers, BatchNorm and the parity of the accumulator were taken into "
        "account: zero can be reached. Real values are refused where they are zero by more than chance: behind a ReLU, rounded, "
        "clipped to where they give zero, and in the model's own input. Export sign as Where(x >= 0, 1, -1), as "
        "GreaterOrEqual, or as BipolarQuant; or say "
        "--sign-at-zero=+1 or -1, which the reference follows.",
    ),
    "E0305": (
        "a layer is not binary",
        "--require-binary was given, and a layer works on real values; the message says why it does.",
    ),
    # E04: options and input data
    "E0403": (
        "--name is not a C identifier",
        "The name prefixes every symbol of the generated code: letters, digits and underscores, at most 40, "
        "no keyword of C or C++.",
    ),
    "E0404": (
        "the samples cannot be read",
        "--inputs and --calibrate take a .npy, or a .npz with an array named like the model's input, or x, or else its first array.",
    ),
    "E0405": (
        "the samples do not fit the model",
        "--inputs and --calibrate hold samples in the ONNX layout with the samples first: [N, C, H, W] for an input [1, C, H, W].",
    ),
    "E0406": (
        "a value does not fit the input type",
        "The C takes bytes; a sample holds a value that is no integer or outside of the type's range, or that "
        "is not finite.",
    ),
    "E0402": (
        "--input does not fit the model",
        "--input u8 and i8 say that a float input holds integers and that the C takes bytes. A model whose "
        "input is uint8 or int8 already says so itself.",
    ),
    "E0401": (
        "unknown target",
        "--target takes a core (cortex-m4) or a board id; `bnncc targets` lists both. A core has an instruction set "
        "and a timing model; only a board has flash, RAM and a clock.",
    ),
    "E0407": (
        "the options contradict each other",
        "measure takes either --target (the simulator) or --board (a board that was flashed).",
    ),
    "E0408": (
        "unknown diagnostic code",
        "explain takes a code as it stands in a message: E and four digits, or W and four digits.",
    ),
    "E0409": (
        "the target is no board that can be flashed",
        "flash and measure --board need a board: a core alone has no flash, RAM, clock or port. Of some boards only the sizes "
        "are known: `bnncc compile --target` takes them, but there is no firmware for them. docs/boards.md tells how to add it.",
    ),
    "E0410": (
        "no program for the target's simulator",
        "cycles takes a bare-metal program, linked for one of the machines that simulate the target's core; "
        "targets/cores tells where their memory lies. A core without Thumb-2 cannot run a program that was built with it.",
    ),
    "E0412": (
        "no such layer or kernel",
        "bench takes the layers and the kernels that its own table names; a kernel runs only on layers that it can do. "
        "--kernel of the other commands takes the same names of kernels.",
    ),
    "E0413": (
        "cycles are not modelled for this core",
        "The core has no timing rules, as for the Cortex-M55, whose pipeline and vector unit overlap instructions in ways that "
        "Arm does not publish. Instructions are counted all the same, and the compiler's estimates are instructions too.",
    ),
    "E0411": (
        "no such function in the program",
        "--symbol takes a function's name as it stands in the program's symbol table: a static function that was inlined "
        "is not there, and C++ names are mangled.",
    ),
    # E05: tools and simulator
    "E0509": (
        "cannot write",
        "The folder cannot be made or written to, or the disk is full. Nothing was left half-written.",
    ),
    "E0510": ("no host compiler", "verify builds the generated C with gcc or clang, ASan and UBSan."),
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
    "E0701": (
        "training is not installed",
        "Training needs torch, Lightning, TensorBoard, matplotlib and onnxscript, which come with "
        "`pip install 'bnncc[train]'`. The compiler works without them.",
    ),
    "E0702": (
        "training diverged",
        "The loss became infinite or NaN. Bop leaves the binary weights valid, but batch normalisation's parameters "
        "are lost: begin anew with a lower rate for Adam.",
    ),
    "E0703": (
        "unusable checkpoint",
        "A training run resumes only from a checkpoint of the same model with the same settings.",
    ),
    "E0704": (
        "data set not available",
        "The data set is neither in its folder ($BNNCC_DATA, or ~/.cache/bnncc) nor could it be downloaded.",
    ),
    "E0705": (
        "damaged data file",
        "A file of the data set is not in the format that its publisher describes.",
    ),
    "E0713": (
        "a study is not as it should be",
        "A study is a TOML file with the keys of docs/studies.md. An unknown key, a value of another type, or a label that "
        "no axis has is refused, and so is a variant that the study does not have.",
    ),
    "E0714": (
        "the study was begun with other settings",
        "All trials of a study are run with the same settings, whoever runs them, else their results could not stand side by side.",
    ),
    "E0715": (
        "a study's storage cannot be used",
        "Trials are kept in a journal file, or in a database that SQLAlchemy can open; it cannot be opened, read or written.",
    ),
    "E0712": ("no such data set", "A data set is named as bnncc.train.data.SETS names it; docs/data.md lists them."),
    "E0706": (
        "exits or input shape do not fit",
        "An export takes the input's shape with batch 1 and, for early exits, a name for each output and a positive "
        "entropy threshold in nats.",
    ),
    "E0707": (
        "parameters that cannot be exported",
        "All parameters and statistics must be finite, and the weights of binary layers -1 or +1. An optimizer other "
        "than Bop moves binary weights away from these.",
    ),
    "E0708": (
        "torch cannot convert the model",
        "torch's ONNX exporter failed on the model: an operator without an ONNX form, or Python code that depends on "
        "values.",
    ),
    "E0709": (
        "torch and onnxruntime disagree",
        "After a conversion both run on the same random inputs. They round batch normalisation differently, which the "
        "tolerance allows for; more than that means that the file would not be the model that was trained.",
    ),
    "E0721": (
        "no such schedule",
        "A schedule is a table with kind (constant, exponential, step, linear, cosine), unit (step or epoch) and the kind's "
        "own settings: end and over, or factor and every.",
    ),
    "E0722": (
        "no such device for training",
        "Training runs on the CPU or on GPUs that torch can use, as many as --devices on each of --nodes machines.",
    ),
    "E0710": (
        "a recipe is not as it should be",
        "A recipe is a TOML file with the keys of docs/train.md. An unknown key, a value of another type, or a name "
        "that stands for nothing is refused, and so is a variant that the recipe does not have.",
    ),
    "E0711": (
        "the folder holds a run",
        "A training run does not overwrite another one: it goes on with it (--resume), or goes to a folder of its own.",
    ),
    # W: warnings
    "W0301": (
        "ternary sign over real values",
        "ONNX Sign gives 0 at zero, and a bit cannot. Over integers bnncc proves that zero is never met, or refuses (E0304); "
        "over real values it cannot, though an exact zero is rare. The C takes -1 there; --sign-at-zero decides it for both.",
    ),
    "W0402": (
        "too large for the board",
        "The model's constants, code and memory need more flash or RAM than the board has. compile goes on, so that the "
        "report can be read; flash refuses.",
    ),
    "W0403": (
        "the kernel does no step",
        "--kernel takes a kernel wherever it applies; here it applies to nothing, so that every step has the kernel that the "
        "compiler would have chosen.",
    ),
    "W0401": (
        "a float input feeds a binary layer",
        "The first layer then sums float32 values: slow without an FPU, and close to onnxruntime instead of "
        "equal. If the input holds integers (pixels), say so with --input u8 or --input i8.",
    ),
}
