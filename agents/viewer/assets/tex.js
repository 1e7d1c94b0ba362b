// TeX to MathML, for the part of TeX that models write in answers. What it does not know it refuses, and the caller
// shows the source. Left out: macros, colours, sizes, alignment of columns.

const MATHML = "http://www.w3.org/1998/Math/MathML";
const LONGEST_FORMULA = 4000;

const INFIX = bare({
  "\\over": [null],
  "\\choose": [{ linethickness: "0" }, "(", ")"],
  "\\atop": [{ linethickness: "0" }],
});
const TEX_TOKEN = /\\(?:[a-zA-Z]+\*?|[^])|\d+(?:\.\d+)?|[^\s]|\s+/gy;

// The formula as a math element, or null when it cannot be read.
function renderTex(source, display) {
  if (source.length > LONGEST_FORMULA) return null;
  try {
    const reader = new TexReader(source);
    const content = reader.rows(() => reader.done);
    const title = clean(source.trim());
    const math = mathml("math", { display: display ? "block" : "inline", alttext: title }, content);
    return math;
  } catch (error) {
    if (error instanceof TexError || error instanceof RangeError) return null; // RangeError: nested too deeply
    throw error;
  }
}

class TexError extends Error {}

function mathml(name, attributes, ...children) {
  return fill(document.createElementNS(MATHML, name), [], attributes, children);
}

class TexReader {
  constructor(source) {
    this.tokens = source.match(TEX_TOKEN) || [];
    this.at = 0;
  }

  get done() {
    return this.peek() === undefined;
  }

  peek() {
    while (/^\s/.test(this.tokens[this.at] || "")) this.at++;
    return this.tokens[this.at];
  }

  next() {
    const token = this.peek();
    if (token === undefined) throw new TexError("ends early");
    this.at++;
    return token;
  }

  expect(token) {
    if (this.next() !== token) throw new TexError(`expected ${token}`);
  }

  // A formula that may have rows and columns, up to where `ends` holds.
  rows(ends) {
    const rows = [[[]]];
    while (!ends()) {
      const token = this.peek();
      if (token === "\\\\" || token === "\\cr" || token === "\\newline") {
        this.next();
        if (this.peek() === "[") this.raw("[", "]");
        rows.push([[]]);
      } else if (token === "&") {
        this.next();
        rows[rows.length - 1].push([]);
      } else if (token === "\\hline") this.next();
      else if (token in INFIX) return this.infix(INFIX[this.next()], rows.at(-1).at(-1), ends);
      else rows[rows.length - 1].at(-1).push(this.scripted());
    }
    if (rows.length > 1 && rows.at(-1).length === 1 && !rows.at(-1)[0].length) rows.pop();
    if (rows.length === 1 && rows[0].length === 1) return mathml("mrow", null, rows[0][0]);
    return mathml(
      "mtable",
      null,
      rows.map((row) =>
        mathml(
          "mtr",
          null,
          row.map((cell) => mathml("mtd", null, cell)),
        ),
      ),
    );
  }

  // "above \over below" takes everything of its group.
  infix([attributes, open, close], above, ends) {
    const fraction = mathml("mfrac", attributes, mathml("mrow", null, above), this.rows(ends));
    return open ? mathml("mrow", null, mathml("mo", null, open), fraction, mathml("mo", null, close)) : fraction;
  }

  // An atom with what stands above and below it.
  scripted() {
    const base = this.atom();
    let above = null;
    let below = null;
    for (;;) {
      const token = this.peek();
      if (token === "^" && !above) above = (this.next(), this.argument());
      else if (token === "_" && !below) below = (this.next(), this.argument());
      else if (token === "'") {
        const primes = [];
        while (this.peek() === "'") primes.push(this.next());
        const mark = mathml("mo", { lspace: "0", rspace: "0" }, "′".repeat(primes.length));
        above = above ? mathml("mrow", null, above, mark) : mark;
      } else if (token === "\\limits" || token === "\\nolimits") this.next();
      else break;
    }
    const limits = base.limits;
    if (above && below) return mathml(limits ? "munderover" : "msubsup", null, base, below, above);
    if (above) return mathml(limits ? "mover" : "msup", null, base, above);
    return below ? mathml(limits ? "munder" : "msub", null, base, below) : base;
  }

  // What a command or a script takes: a group or one atom.
  argument() {
    const token = this.peek() || "";
    if (/^\d./.test(token)) this.tokens.splice(this.at, 1, token[0], token.slice(1)); // one digit, as in x^23
    return this.atom();
  }

  atom() {
    const token = this.next();
    if (token === "{") {
      const group = this.rows(() => this.peek() === "}" || this.done);
      this.expect("}");
      return group;
    }
    if (token[0] === "\\") return this.command(token.slice(1));
    if (/^\d/.test(token)) return mathml("mn", null, token);
    if ("}&^_".includes(token)) throw new TexError(`stray ${token}`);
    if (token === "~") return this.space(0.25);
    if (/^[\p{L}]$/u.test(token)) return mathml("mi", null, token);
    if (token === "-") return mathml("mo", null, "−");
    if (token === "*") return mathml("mo", null, "∗");
    if (token === "|") return mathml("mo", { stretchy: "false", lspace: "0.06em", rspace: "0.06em" }, token);
    if ("()[]/".includes(token)) return mathml("mo", { stretchy: "false" }, token);
    return mathml("mo", null, token);
  }

  command(name) {
    if (!name) throw new TexError("a backslash at the end");
    if (name in LETTERS) return mathml("mi", null, LETTERS[name]);
    if (name in OPERATORS)
      return mathml("mo", "()[]{}|‖⟨⟩⌊⌋⌈⌉".includes(OPERATORS[name]) ? { stretchy: "false" } : null, OPERATORS[name]);
    if (name in LIMITED) return Object.assign(mathml("mo", { movablelimits: "true" }, LIMITED[name]), { limits: true });
    if (name in INTEGRALS) return mathml("mo", null, INTEGRALS[name]);
    if (FUNCTIONS.has(name)) return mathml("mrow", null, mathml("mi", null, name), this.gap());
    if (name in SPACES) return this.space(SPACES[name]);
    if (TEXTS.has(name) || name === "operatorname*") return mathml("mtext", null, this.raw("{", "}"));
    if (name in ACCENTS)
      return mathml(
        "mover",
        { accent: "true" },
        this.argument(),
        mathml("mo", { stretchy: String(name.length > 5) }, ACCENTS[name]),
      );
    if (IGNORED.has(name)) return mathml("mrow", null);
    if ("%$#_&".includes(name)) return mathml("mo", null, name);
    if ("{}".includes(name)) return mathml("mo", { stretchy: "false" }, name);
    if (name === "|") return mathml("mo", { stretchy: "false" }, "‖");
    const construct = CONSTRUCTS[name];
    if (!construct) throw new TexError(`unknown \\${name}`);
    return construct(this);
  }

  // A function name stands apart from a letter that follows, not from a parenthesis.
  gap() {
    return /^[\w\\]/.test(this.peek() || "") && !/^\\(left|right|big|[,;:!}])/.test(this.peek())
      ? this.space(0.167)
      : null;
  }

  space(em) {
    return mathml("mspace", { width: `${em}em` });
  }

  // Source text between two tokens, which may be nested.
  raw(open, close) {
    if (this.peek() !== open) return this.next();
    this.next();
    let text = "";
    for (let depth = 1; ; this.at++) {
      const token = this.tokens[this.at];
      if (token === undefined) throw new TexError(`no ${close}`);
      if (token === open) depth++;
      if (token === close && --depth === 0) break;
      text += token;
    }
    this.at++;
    return text.replace(/\\([%$#_&{} ])/g, "$1").replace(/^ | $/g, "\u00a0");
  }

  delimiter() {
    const token = this.next();
    if (token === ".") return null;
    const name = token.slice(1);
    const text =
      token[0] !== "\\" ? token : name in OPERATORS ? OPERATORS[name] : { "{": "{", "}": "}", "|": "‖" }[name];
    if (text === undefined) throw new TexError(`delimiter ${token}`);
    return mathml("mo", { stretchy: "true", fence: "true" }, text);
  }

  environment() {
    const name = this.raw("{", "}");
    if (!(name in FENCED) && !TABLES.has(name)) throw new TexError(`environment ${name}`);
    if (name === "array" || name === "alignat") this.raw("{", "}");
    const table = this.rows(() => this.peek() === "\\end" || this.done);
    this.expect("\\end");
    if (this.raw("{", "}") !== name) throw new TexError("wrong end");
    table.setAttribute(
      "class",
      /cases/.test(name) ? "cases" : TABLES.has(name) && name !== "array" ? "aligned" : "matrix",
    );
    const [open, close] = [...(FENCED[name] || "")];
    const fence = (char) => (char && char !== " " ? mathml("mo", { stretchy: "true", fence: "true" }, char) : null);
    return mathml("mrow", null, fence(open), table, fence(close));
  }
}
