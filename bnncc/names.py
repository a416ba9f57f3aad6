"""ONNX names are untrusted; these are the C identifiers and comment texts made of them."""

import re
from collections.abc import Collection, Iterable

from bnncc.errors import UsageError

KEYWORDS = frozenset(
    (  # noqa: SIM905  (a list of a hundred strings reads worse)
        "auto break case char const continue default do double else enum extern float for goto if inline int long "
        "register restrict return short signed sizeof static struct switch typedef union unsigned void volatile while "
        "_Bool _Complex _Imaginary alignas alignof and and_eq asm bitand bitor bool catch char8_t char16_t char32_t class "
        "compl concept const_cast consteval constexpr constinit co_await co_return co_yield decltype delete dynamic_cast "
        "explicit export false friend mutable namespace new noexcept not not_eq nullptr operator or or_eq private "
        "protected public reinterpret_cast requires static_assert static_cast template this thread_local throw true try "
        "typeid typename using virtual wchar_t xor xor_eq main errno NULL stdin stdout stderr "
        "NAN INFINITY HUGE_VAL HUGE_VALF EOF I linux unix"
    ).split()
)
HEADERS = frozenset(  # NAME.h and NAME.c must not hide a file that is compiled beside them
    (  # noqa: SIM905
        "model driver math stdint stdbool stddef stdlib stdio string limits float errno assert time ctype board frame "
        "identity profile protocol startup main port mark semihost measure profiled"
    ).split()
)


def identifier(name: str) -> str:
    """A C and C++ identifier that resembles `name` and is no keyword."""
    base = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[:40].rstrip("_") or "output"
    if base[0].isdigit():
        base = "n" + base
    return base + "_" if base in KEYWORDS else base


def identifiers(names: Iterable[str], reserved: Collection[str]) -> list[str]:
    """One identifier for each name, distinct in upper case too, because macros are made of them; none is among `reserved`."""
    taken = {r.upper() for r in reserved}
    following: dict[str, int] = {}  # by base, the number to try next
    out = []
    for name in names:
        base = result = identifier(name)
        while result.upper() in taken:
            k = following.get(base, 2)
            result, following[base] = f"{base}_{k}", k + 1
        taken.add(result.upper())
        out.append(result)
    return out


def model_name(given: str | None, stem: str) -> str:
    """The model's name in C: --name as it is, or the file's stem made an identifier. Raises UsageError E0403."""
    if given is None:
        name = identifier(stem).lower()
        return f"{name}_net" if name in HEADERS else name
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,39}", given) or given in KEYWORDS:
        raise UsageError.of(
            "E0403",
            f"--name {given[:60]!r} is not a C identifier",
            remedy="use letters, digits and underscores, at most 40, and no keyword",
        )
    if given.lower() in HEADERS:
        raise UsageError.of(
            "E0403",
            f"--name {given!r} would hide the file {given}.h of the C library or of a driver",
            remedy="use another name",
        )
    return given


def comment(text: str) -> str:
    """Text that cannot end a C comment, continue a line or open a trigraph."""
    plain = "".join(c if " " <= c <= "~" else "?" for c in text)
    return plain.replace("\\", "/").replace("*/", "* /").replace("/*", "/ *").replace("??", "? ?")
