"""Writes the C of an artifact from its Plan: the public header, the driver that lists the launches, and an example."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ...schedules.device import Device
from ..plan import ALIGNMENT, Launch, Place, Plan, Signature
from .errors import ToolchainError

RUNTIME = Path(__file__).parent / "runtime"
MAX_TILES = 1 << 30     # tile numbers are int32 and run a little past the end
MAX_NAME = 64
BLOCKS = ("arena", "weights", "prepared")   # the places whose offset counts bytes

# Names that would make `<name>_create` or `lib<name>.so` something else: C's keywords, what systems have, and our own.
_RESERVED = frozenset({
    "auto", "break", "case", "char", "const", "continue", "default", "do", "double", "else", "enum", "extern", "float", "for",
    "goto", "if", "inline", "int", "long", "register", "restrict", "return", "short", "signed", "sizeof", "static", "struct",
    "switch", "typedef", "union", "unsigned", "void", "volatile", "while",
    "timer", "thrd", "mtx", "cnd", "tss", "pthread", "sem", "c", "m", "dl", "rt", "util", "z", "burnish"})

# Below this much work a launch is done by one thread: waking the others at a barrier costs about a microsecond.
SERIAL_FLOPS, SERIAL_BYTES = 100_000, 32_768


def identifier(name: str) -> str:
    """A C identifier from any model name: "mobilenet-v2.1" -> mobilenet_v2_1."""
    word = re.sub(r"_+", "_", re.sub(r"\W", "_", name, flags=re.ASCII)).strip("_")[:MAX_NAME].rstrip("_")
    return f"model_{word}".rstrip("_") if not word or word[0].isdigit() or word.lower() in _RESERVED else word


def is_serial(launch: Launch) -> bool:
    """Is it too small to share out?"""
    return launch.tiles < 2 or (launch.flops < SERIAL_FLOPS and launch.bytes < SERIAL_BYTES)


def errors() -> list[tuple[str, int, str]]:
    """(name, code, text) of `runtime/errors.def`."""
    found = re.findall(r'^ERROR\((\w+), (\d+), "(.*)"\)$', (RUNTIME / "errors.def").read_text(), re.M)
    return [(name, int(code), text) for name, code, text in found]


# ---- The public header -------------------------------------------------------------------------------------------------


def header(plan: Plan) -> str:
    """`<name>.h`: all that a user of the library needs."""
    n, N = identifier(plan.name), identifier(plan.name).upper()
    codes = "\n".join(f"    {N}_{name} = {code},{' ' * (18 - len(name))}/* {text} */" for name, code, text in errors())
    return f"""\
/* {comment(plan.name)}: a compiled model. Made by burnish.
 *
 *     {n}_model *model;
 *     int error = {n}_create(&model, "{n}.weights", 0);
 *     if (error) {{ fprintf(stderr, "%s\\n", {n}_error(error)); exit(1); }}
 *     const void *inputs[{N}_INPUTS] = {{ … }};
 *     void *outputs[{N}_OUTPUTS] = {{ … }};
 *     {n}_run(model, inputs, outputs);
 *     {n}_destroy(model);
 *
 * Inputs:
{signatures(plan.inputs)}
 * Outputs:
{signatures(plan.outputs)}
 * Arrays are dense and row-major; each starts at a multiple of its element's size, better of {ALIGNMENT} bytes. A bool is one
 * byte, 0 or 1.
 *
 * An instance runs in one thread at a time; different instances may run at once and share the pages of the weights. Nothing is
 * allocated after {n}_create. An instance does not survive fork(). */
#ifndef {N}_H
#define {N}_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

#define {N}_INPUTS {len(plan.inputs)}
#define {N}_OUTPUTS {len(plan.outputs)}
#define {N}_LAUNCHES {len(plan.launches)}

/* What every function that returns int may return; {n}_error gives the text. */
enum {{
{codes}
}};

typedef struct {n}_model {n}_model;

/* An input or an output: name and dtype (as numpy spells it) in UTF-8, extents, size. */
typedef struct {{
    const char *name;
    const char *dtype;
    int rank;
    const int64_t *shape;
    size_t bytes;
}} {n}_tensor;

/* One kernel call of the model: the kernel and the ONNX nodes that it computes; floating-point operations and bytes that the
 * operation needs. */
typedef struct {{
    const char *kernel;
    const char *nodes;
    double flops;
    double bytes;
}} {n}_launch;

/* Maps the weights, starts the threads, and transforms the weights that need it. threads: how many work on one run, the caller's
 * among them; 0 for as many as CPUs that the process may use. On an error *model is null. */
int {n}_create({n}_model **model, const char *weights_path, int threads);

/* Computes outputs from inputs, in the order of the lists above. Outputs may not overlap inputs. */
int {n}_run({n}_model *model, const void *const inputs[], void *const outputs[]);

/* As {n}_run, and writes the wall time of each launch, in seconds, to seconds[{N}_LAUNCHES]. */
int {n}_profile({n}_model *model, const void *const inputs[], void *const outputs[], double seconds[]);

/* Ends the threads and frees everything. Null is allowed. */
void {n}_destroy({n}_model *model);

/* How many threads work on a run: 1 where nothing in the model is worth sharing out. */
int {n}_threads(const {n}_model *model);

/* Number 0, 1, …; null past the end. */
const {n}_tensor *{n}_input(int number);
const {n}_tensor *{n}_output(int number);
const {n}_launch *{n}_launch_info(int number);

const char *{n}_error(int code);

#ifdef __cplusplus
}}
#endif

#endif
"""


def signatures(them: Iterable[Signature]) -> str:
    lines = [f" *     {k}: {comment(s.name)}  {s.dtype}[{', '.join(map(str, s.shape))}]" for k, s in enumerate(them)]
    return "\n".join(lines or [" *     none"])


# ---- The driver --------------------------------------------------------------------------------------------------------


def source(plan: Plan, device: Device, weight_id: int) -> str:
    """`<name>.c`: the launches in order, and the public functions over the runtime. Raises ToolchainError for a Plan that it
    cannot say in C (too many tiles, a place that does not exist, a kernel with two signatures)."""
    check(plan)
    n, N = identifier(plan.name), identifier(plan.name).upper()
    isa = ", ".join([*map(string, device.isa), "NULL"]) if device.isa else "NULL"
    infos = "".join(f"    {{{string(x.kernel)}, {string(', '.join(x.nodes))}, {float(x.flops)!r}, {float(x.bytes)!r}}},\n"
                    for x in plan.launches)
    return f"""\
/* The driver of {comment(plan.name)}, generated by burnish: {len(plan.launches)} launches of {len(kernels(plan))} kernels.
 * Arena {plan.arena} bytes, weights {plan.weights} bytes, made of them at creation {plan.prepared} bytes,
 * scratch {plan.scratch} bytes for each thread. */
#include "{n}.h"
#include "runtime.h"

/* ---- Kernels: buffers, then scratch where the kernel needs it, then the tiles [begin, end). */

{prototypes(plan)}

/* ---- Launches, in the order in which they run. m: the arena, the weights, what the setup made of them, the caller's arrays. */

{launch_list("launch", "launches", plan.launches)}\
/* ---- The setup, which runs once, when the model is created. */

{launch_list("setup", "setups", plan.setup)}\
static const {n}_launch launch_infos[] = {{
{infos}    {{NULL, NULL, 0, 0}},
}};

/* ---- Inputs and outputs. */

{tensors(n, "input", plan.inputs)}
{tensors(n, "output", plan.outputs)}
/* ---- The public functions. */

static const char *const isa[] = {{{isa}}};

static const burnish_program program = {{
    .launches = launches, .launch_count = {N}_LAUNCHES, .setups = setups, .setup_count = {len(plan.setup)},
    .input_count = {N}_INPUTS, .output_count = {N}_OUTPUTS,
    .arena_bytes = {plan.arena}, .scratch_bytes = {plan.scratch}, .prepared_bytes = {plan.prepared},
    .weight_bytes = {plan.weights}, .weight_id = UINT64_C(0x{weight_id:016x}),
    .isa = isa,
}};

#define API __attribute__((visibility("default")))

API int {n}_create({n}_model **model, const char *weights_path, int threads) {{
    return burnish_create((burnish_model **)model, &program, weights_path, threads);
}}

API int {n}_run({n}_model *model, const void *const inputs[], void *const outputs[]) {{
    return burnish_run((burnish_model *)model, inputs, outputs, NULL);
}}

API int {n}_profile({n}_model *model, const void *const inputs[], void *const outputs[], double seconds[]) {{
    return seconds ? burnish_run((burnish_model *)model, inputs, outputs, seconds) : BURNISH_ARGUMENT;
}}

API void {n}_destroy({n}_model *model) {{ burnish_destroy((burnish_model *)model); }}

API int {n}_threads(const {n}_model *model) {{ return burnish_threads((const burnish_model *)model); }}

API const {n}_tensor *{n}_input(int number) {{ return number >= 0 && number < {N}_INPUTS ? &inputs[number] : NULL; }}

API const {n}_tensor *{n}_output(int number) {{ return number >= 0 && number < {N}_OUTPUTS ? &outputs[number] : NULL; }}

API const {n}_launch *{n}_launch_info(int number) {{
    return number >= 0 && number < {N}_LAUNCHES ? &launch_infos[number] : NULL;
}}

API const char *{n}_error(int code) {{ return burnish_error(code); }}
"""


def check(plan: Plan) -> None:
    # One past the end of the arena and of the weights is where an empty buffer may lie.
    constants = {"weights": plan.weights + 1, "prepared": plan.prepared + 1}
    values = {"input": len(plan.inputs), "output": len(plan.outputs), "arena": plan.arena + 1}
    everywhere = values | constants
    for launch, limits in (*((x, constants) for x in plan.setup), *((way, everywhere) for x in plan.launches for way in x.ways)):
        if identifier(launch.kernel) != launch.kernel:
            raise ToolchainError(f"{launch.kernel!r} is not a C identifier")
        if not 0 <= launch.tiles <= MAX_TILES:
            raise ToolchainError(f"{launch.kernel}: {launch.tiles} tiles, where at most {MAX_TILES} can be numbered")
        if launch.scratch > plan.scratch:
            raise ToolchainError(f"{launch.kernel}: needs {launch.scratch} bytes of scratch, the plan has {plan.scratch}")
        for place in launch.args:
            if not 0 <= place.offset < limits.get(place.where, 0):
                raise ToolchainError(f"{launch.kernel}: no {place.where} at {place.offset}")
            if place.where in BLOCKS and place.offset % ALIGNMENT:
                raise ToolchainError(f"{launch.kernel}: {place.where} offset {place.offset} is not a multiple of {ALIGNMENT}")
            if not 0 <= place.start <= room(plan, place):
                raise ToolchainError(f"{launch.kernel}: {place.where} {place.offset} ends before byte {place.start}")


def room(plan: Plan, place: Place) -> int:
    """Bytes from where the place is counted to the end of what it lies in."""
    match place.where:
        case "input": return plan.inputs[place.offset].nbytes
        case "output": return plan.outputs[place.offset].nbytes
        case "arena": return plan.arena - place.offset
        case "weights": return plan.weights - place.offset
        case "prepared": return plan.prepared - place.offset


def kernels(plan: Plan) -> dict[str, tuple[int, bool]]:
    """Symbol -> (buffers that it takes, does it take scratch), in order of first use."""
    found: dict[str, tuple[int, bool]] = {}
    for launch in (way for x in (*plan.setup, *plan.launches) for way in x.ways):
        form = len(launch.args), launch.scratch > 0
        if found.setdefault(launch.kernel, form) != form:
            raise ToolchainError(f"{launch.kernel} is launched with different arguments")
    return found


def prototypes(plan: Plan) -> str:
    """Hidden, so that the linker keeps the kernels' symbols out of the library's interface."""
    return "\n".join(
        f'__attribute__((visibility("hidden"))) void {symbol}({"void *, " * (buffers + scratch)}int32_t begin, int32_t end);'
        for symbol, (buffers, scratch) in kernels(plan).items())


def launch_list(kind: str, name: str, launches: Sequence[Launch]) -> str:
    """The functions `<kind>_<number>`, and their table."""
    functions = "".join(launch_function(f"{kind}_{k}", k, x) for k, x in enumerate(launches))
    rows = "".join(f"    {{{kind}_{k}, {x.tiles}, {int(is_serial(x))}}},\n" for k, x in enumerate(launches))
    return f"""\
{functions}static const burnish_launch {name}[] = {{      /* function, tiles, serial */
{rows}    {{NULL, 0, 0}},
}};

"""


def launch_function(name: str, number: int, launch: Launch) -> str:
    scratch = ["scratch"] if launch.scratch else []
    arguments = ", ".join([*map(place, launch.args), *scratch, "begin", "end"])
    unused = "" if launch.scratch else "    (void)scratch;\n"
    if not launch.args:
        unused += "    (void)m;\n"
    return f"""\
/* {number}. {comment(', '.join(launch.nodes)) or "(no source node)"}
 *    {launch.flops / 1e6:.3f} MFLOP, {launch.bytes / 1024:.1f} KiB, {launch.tiles} tiles */
static void {name}(const burnish_memory *m, void *scratch, int32_t begin, int32_t end) {{
{unused}    {launch.kernel}({arguments});
}}

"""


def place(p: Place) -> str:
    if p.where in BLOCKS:
        return f"m->{p.where} + {p.offset + p.start}"
    return f"(char *)m->{p.where}s[{p.offset}] + {p.start}" if p.start else f"m->{p.where}s[{p.offset}]"


def tensors(name: str, kind: str, them: Iterable[Signature]) -> str:
    them = list(them)
    shapes = "".join(f"static const int64_t {kind}_{k}_shape[] = {{{', '.join(map(str, s.shape or (1,)))}}};\n"
                     for k, s in enumerate(them))
    rows = "".join(f"    {{{string(s.name)}, {string(s.dtype)}, {len(s.shape)}, {kind}_{k}_shape, {s.nbytes}}},\n"
                   for k, s in enumerate(them))
    return f"{shapes}static const {name}_tensor {kind}s[] = {{\n{rows}    {{NULL, NULL, 0, NULL, 0}},\n}};\n"


def comment(text: str) -> str:
    """Safe inside a C comment, on one line, whatever the ONNX file calls its nodes."""
    clean = "".join(c if c.isprintable() else "?" for c in text)
    return clean.replace("*/", "* /").replace("/*", "/ *").replace("\\", "/")[:400]


def string(text: str) -> str:
    """A C string literal of the text in UTF-8."""
    plain = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 _-.,:/+()[]{}<>=!#$%&*;@^|~'")
    return '"' + "".join(chr(b) if b in plain else f"\\{b:03o}" for b in text.encode("utf-8", "replace")) + '"'


# ---- The example -------------------------------------------------------------------------------------------------------


def example(plan: Plan) -> str:
    """`example.c`: runs the sample and compares with the expected outputs; also a program for the command line."""
    n, N = identifier(plan.name), identifier(plan.name).upper()
    return (RUNTIME / "example.c.in").read_text().replace("@name@", n).replace("@NAME@", N)
