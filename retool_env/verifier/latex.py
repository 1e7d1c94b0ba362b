r"""One spelling for each way of writing the same LaTeX.

Purpose: remove what only concerns looks (spacing, size, fonts, delimiters, Unicode variants) from a short answer.
Contract: pure and total; the caller bounds the length. Only the notation changes, never the value: units, percent
signs, names and separators are still there, ``\text{..}`` is the only text command left, ``*`` and ``/`` are the only
product and division signs, a multi-digit exponent is in braces (``2^10`` means 1024), and a number in another base is
``204_{5}``.
Left out: structure (:mod:`.shape`) and value (:mod:`.exact`).
"""

from __future__ import annotations

import re

__all__ = ["clean", "closing", "unwrap"]

_SUPERSCRIPTS = {ord(char): f"^{{{digit}}}" for digit, char in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")}
_FULL_WIDTH = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
_INVISIBLE = dict.fromkeys([0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF, 0x202A, 0x202C, 0x202D, 0x202E], "")
_SYMBOLS = {
    **dict.fromkeys("−–—‒", "-"),
    **dict.fromkeys("\u00a0\u2009\u202f\u2002\u2003\u3000", " "),
    **dict.fromkeys("€£¥₹", ""),
    "¢": r"\text{ cents}", "~": " ",
    **dict.fromkeys("×·⋅", "*"),
    "÷": "/", "⁄": "/", "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}",
    "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "±": r"\pm ", "∈": r"\in ", "∪": r"\cup ",
    "∩": r"\cap ", "∅": r"\emptyset ", "∞": r"\infty ", "π": r"\pi ", "√": r"\sqrt ", "θ": r"\theta ",
    "λ": r"\lambda ", "α": r"\alpha ", "β": r"\beta ", "°": r"^{\circ}", "…": r"\ldots ", "、": ",", "。": ".",
    "“": '"', "”": '"', "‘": "'", "’": "'",
}  # fmt: skip
_UNICODE = {**_SUPERSCRIPTS, **_FULL_WIDTH, **_INVISIBLE, **str.maketrans(_SYMBOLS)}

_MACROS = {
    **dict.fromkeys(["dfrac", "tfrac", "cfrac", "sfrac", "nicefrac"], r"\frac"),
    **dict.fromkeys(["dbinom", "tbinom"], r"\binom"),
    **dict.fromkeys(["left", "right", "big", "Big", "bigg", "Bigg", "bigl", "bigr", "Bigl", "Bigr", "middle"], ""),
    **dict.fromkeys(["displaystyle", "textstyle", "scriptstyle", "limits", "rm", "bf", "it", "bfseries"], " "),
    **dict.fromkeys(["tiny", "small", "normalsize", "large", "Large", "LARGE", "huge", "Huge"], " "),
    **dict.fromkeys(["blacksquare", "checkmark", "qed", "Box", "therefore"], " "),
    **dict.fromkeys([",", ";", ":", ">", " ", "\n", "hfill", "enspace", "thinspace", "medspace", "thickspace"], " "),
    **dict.fromkeys(["!", "(", ")", "[", "]", "$", "#"], ""),
    **dict.fromkeys(["quad", "qquad"], ","),
    **dict.fromkeys(["times", "cdot", "ast"], "*"),
    **dict.fromkeys(["leq", "leqslant", "leqq"], r"\le "),
    **dict.fromkeys(["geq", "geqslant", "geqq"], r"\ge "),
    **dict.fromkeys(["lvert", "rvert", "vert", "mid"], "|"),
    **dict.fromkeys(["dots", "cdots"], r"\ldots "),
    **dict.fromkeys(["textrm", "textnormal", "mathrm", "mbox", "hbox", "operatorname", "textup"], r"\text"),
    "%": "%", "div": "/", "lt": "<", "gt": ">", "neq": r"\ne ", "lbrace": r"\{", "rbrace": r"\}", "degree": r"^{\circ}",
    **dict.fromkeys(["pounds", "euro", "yen"], ""), "cent": r"\text{ cents}",
    "lg": r"\log_{10}", "tg": r"\tan ", "ctg": r"\cot ", "arctg": r"\arctan ", "lbrack": "[", "rbrack": "]",
    "textdegree": r"^{\circ}",
    "langle": "(", "rangle": ")", "varnothing": r"\emptyset ", "simeq": r"\approx ", "imath": "i", "colon": ":",
}  # fmt: skip
_STYLES = ("boxed", "fbox", "textbf", "textit", "texttt", "textsf", "mathbf", "mathit", "mathsf", "bm", "boldsymbol",
           "underline", "emph", "ensuremath")  # fmt: skip
_STYLE = re.compile(r"\\(?:" + "|".join(_STYLES) + r")\s*\{")
_MACRO = re.compile(r"\\([A-Za-z]+|.)", re.DOTALL)
_COLOUR = re.compile(r"\\(?:text)?color\s*\{[^{}]*\}")
_DEGREES = re.compile(r"\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\})|(?<=[0-9])\^ ?(?:o(?![A-Za-z])|\{o\})")
# The real root, where algebra would take a complex one.
_ODD_ROOT = re.compile(r"\\sqrt ?\[([3579])\] ?\{ ?-([^{}+-]*)\}")
# Room, and what is printed without being a part of the formula.
_UNSEEN = re.compile(r"\\(?:[hv]space\*?|[hv]?phantom|tag\*?|label) ?\{[^{}]*\}")
_NOT_EQUAL = re.compile(r"\\not ?=")
_PRIME = re.compile(r"\^ ?(?:\\prime(?![A-Za-z])|\{ ?\\prime ?\})")
_ROMAN = re.compile(r"\{ ?\\rm ([^{}\\]*)\}")
_GROUPED_UNIT = re.compile(r"(?<=[0-9 )])\{(\\text ?\{[^{}]*\})\}\Z")
_FULL_STOP = re.compile(r"\\text ?\{[ .,;:]+\}\Z")
_DOLLARS = re.compile(r"\\\$ ?([0-9][0-9.,]*)")
_NAMED_FUNCTION = re.compile(r"\\text ?\{ ?((?:arc)?(?:sin|cos|tan|cot|tg|ctg)|ln|log|exp) ?\}")
_UPRIGHT = re.compile(r"\\text ?\{([ie])\}")
_INFIX = re.compile(r"\{((?:[^{}]|\{[^{}]*\})*?)\\(over|choose)(?![A-Za-z])((?:[^{}]|\{[^{}]*\})*)\}")
_PERIOD = re.compile(r"(\.[0-9]*)\\dot ?\{?([0-9])\}?(?:([0-9]*)\\dot ?\{?([0-9])\}?)?|(\.)\(([0-9]+)\)")
_BARE_NAME = re.compile(r"(?<![\\A-Za-z])(pi|sqrt|sin|cos|tan|ln|log|exp|infty)(?![A-Za-z])")
_GROUPED_COMMA = re.compile(r"\{,\}|,\s*\\!\s*|\\text\s*\{,\}")
_GROUPED_SIGN = re.compile(r"\{([:=.+-])\}")
_NULL_DELIMITER = re.compile(r"\\(?:left|right)\s*\.")
_BASE = re.compile(r"\(([0-9A-Z]+)\) ?_\{([0-9]+)\}")
_SCRIPT = re.compile(r"([\^_])\s*([+-]?[0-9]+|[A-Za-z])")
_CALL = re.compile(r"(\\sqrt|\^)\s*\(")
_ARGUMENT = r" ?(\{[^{}]*\}|\\(?:pi|theta|alpha|beta|lambda)(?![A-Za-z])|[0-9A-Za-z])"
_FRACTION = re.compile(rf"\\frac{_ARGUMENT}{_ARGUMENT}")
_SPACED_COMMAND = re.compile(r"(\\[A-Za-z]+) (?=[^A-Za-z])")
_OPENING, _CLOSING = "([{", ")]}"
_MAX_REWRITES = 40


def clean(text: str) -> str:
    """The answer in the one spelling, without outer decoration."""
    text = text.translate(_UNICODE)
    text = _strip(_GROUPED_COMMA.sub(",", text.replace("...", r"\ldots ")))
    text = _without_rarities(text)
    text = _NULL_DELIMITER.sub("", _GROUPED_SIGN.sub(r"\1", text))
    text = _COLOUR.sub("", _MACRO.sub(_macro, text)).replace("$", "")
    text = _UPRIGHT.sub(r"\1", _NAMED_FUNCTION.sub(_function, _unstyled(text)))
    text = text.replace("**", "^").replace("<=", r"\le ").replace(">=", r"\ge ").replace("!=", r"\ne ")
    text = _BARE_NAME.sub(r"\\\1 ", _DEGREES.sub(r"\\circ ", text))
    text = _BASE.sub(r"\1_{\2}", _SCRIPT.sub(r"\1{\2}", _call_braces(text)))
    text = _SPACED_COMMAND.sub(r"\1", _FRACTION.sub(_fraction, " ".join(text.split())))
    return unwrap(_strip(_GROUPED_UNIT.sub(r"\1", text)))


def closing(text: str, opening: int) -> int:
    r"""The index of the bracket that closes the one at ``opening``, or -1; any closing bracket fits (``[0,1)``)."""
    depth = 0
    for index in range(opening, len(text)):
        if text[index] in _OPENING:
            depth += 1
        elif text[index] in _CLOSING:
            depth -= 1
            if depth == 0:
                return index
    return -1


def unwrap(text: str) -> str:
    r"""The content of a text that is one brace group as a whole: ``{34}``."""
    while text.startswith("{") and closing(text, 0) == len(text) - 1:
        text = text[1:-1].strip()
    return text


def _fraction(match: re.Match[str]) -> str:
    r"""``\frac12`` and ``\frac\pi4`` with both braces."""
    parts = (part if part.startswith("{") else f"{{{part}}}" for part in match.groups())
    return "\\frac" + "".join(parts)


def _without_rarities(text: str) -> str:
    """Rarer spellings in the usual ones, as LaTeX and before macros are replaced."""
    if "\\" not in text and ".(" not in text:
        return text
    text = _FULL_STOP.sub("", _ROMAN.sub(r"\\text{\1}", _UNSEEN.sub(" ", text)))
    if dollars := _DOLLARS.fullmatch(text):
        return f"{dollars[1]}\\text{{ dollars}}"
    text = _ODD_ROOT.sub(r"(-\\sqrt[\1]{\2})", text)
    text = _PRIME.sub("'", _NOT_EQUAL.sub(r"\\ne ", text))
    return _PERIOD.sub(_period, _INFIX.sub(_infix, text))


def _infix(match: re.Match[str]) -> str:
    r"""``{1 \over 2}`` and ``{n \choose 2}`` as ``\frac`` and ``\binom``."""
    command = {"over": "frac", "choose": "binom"}[match[2]]
    return f"\\{command}{{{match[1].strip()}}}{{{match[3].strip()}}}"


def _period(match: re.Match[str]) -> str:
    r"""``0.\dot{3}``, ``0.\dot{1}4285\dot{7}`` and ``0.(3)`` with a bar."""
    if match[5]:
        return f".\\overline{{{match[6]}}}"
    return f"{match[1]}\\overline{{{match[2]}{match[3] or ''}{match[4] or ''}}}"


def _function(match: re.Match[str]) -> str:
    return _MACROS.get(match[1], f"\\{match[1]} ")


def _macro(match: re.Match[str]) -> str:
    return _MACROS.get(match[1], match[0])


def _strip(text: str) -> str:
    """Without Markdown, quotes and final punctuation at the ends."""
    before = None
    while text != before:
        before = text
        text = text.strip(" \t\r\n*_`~$").rstrip(".,;:").lstrip(",;:")
        if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
            text = text[1:-1]
        if text.endswith("\\") and not text.endswith("\\\\"):
            # The rest of a "\," or "\ " that the cut went through.
            text = text[:-1]
    return text


def _unstyled(text: str) -> str:
    for _ in range(_MAX_REWRITES):
        match = _STYLE.search(text)
        end = closing(text, match.end() - 1) if match else -1
        if match is None or end < 0:
            break
        text = text[: match.start()] + text[match.end() : end] + text[end + 1 :]
    return text


def _call_braces(text: str) -> str:
    r"""``\sqrt(2)`` and ``10^(-3)`` with the braces that LaTeX wants."""
    start = 0
    for _ in range(_MAX_REWRITES):
        match = _CALL.search(text, start)
        end = closing(text, match.end() - 1) if match else -1
        if match is None or end < 0:
            break
        start = match.end()
        text = f"{text[: match.start()]}{match[1]}{{{text[start:end]}}}{text[end + 1 :]}"
    return text
