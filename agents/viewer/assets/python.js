// Colours for Python: comments, strings, numbers, keywords and built-in names. A tokenizer, not a parser; what it does
// not know stays plain.

const PYTHON_KEYWORDS = new Set(
  (
    "False None True and as assert async await break class continue def del elif else except finally for from global " +
    "if import in is lambda nonlocal not or pass raise return try while with yield match case"
  ).split(" "),
);
const PYTHON_BUILTINS = new Set(
  (
    "abs all any bin bool chr dict divmod enumerate filter float format hex input int isinstance len list map max min " +
    "next oct open ord pow print range repr reversed round set sorted str sum tuple type zip Exception ValueError " +
    "TypeError KeyError IndexError ZeroDivisionError NameError"
  ).split(" "),
);
const PYTHON_TOKEN = new RegExp(
  [
    /(?<comment>#[^\n]*)/,
    /(?<string>[rbfuRBFU]{0,2}(?:"""(?:\\[^]|(?!""")[^])*(?:"""|$)|'''(?:\\[^]|(?!''')[^])*(?:'''|$)|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?))/,
    /(?<number>\b(?:0[xXbBoO][\da-fA-F_]+|\d[\d_]*(?:\.[\d_]*)?(?:[eE][+-]?\d+)?j?)\b|\.\d[\d_]*)/,
    /(?<decorator>@[A-Za-z_][\w.]*)/,
    /(?<name>[A-Za-z_]\w*)/,
  ]
    .map((part) => part.source)
    .join("|"),
  "g",
);

function highlightPython(source) {
  const parts = [];
  let end = 0;
  for (const match of source.matchAll(PYTHON_TOKEN)) {
    const kind = pythonKind(match, source);
    if (!kind) continue;
    parts.push(source.slice(end, match.index), el(`span.${kind}`, null, match[0]));
    end = match.index + match[0].length;
  }
  parts.push(source.slice(end));
  return parts;
}

function pythonKind(match, source) {
  const { comment, string, number, decorator, name } = match.groups;
  if (comment !== undefined) return "comment";
  if (string !== undefined) return "string";
  if (number !== undefined) return "number";
  if (decorator !== undefined) {
    const line = source.slice(source.lastIndexOf("\n", match.index) + 1, match.index);
    return line.trim() ? null : "keyword"; // elsewhere it is matrix multiplication
  }
  if (PYTHON_KEYWORDS.has(name)) return "keyword";
  return PYTHON_BUILTINS.has(name) && source[match.index - 1] !== "." ? "builtin" : null;
}
