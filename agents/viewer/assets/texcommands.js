// The commands of tex.js that take arguments. Each is given the reader, behind the command's name.

// Letters of another alphabet, by where it begins in Unicode; those that have a place of their own are exceptions.
function alphabet(upper, lower, exceptions) {
  return (reader) => {
    const letters = [...reader.raw("{", "}")].map((char) => {
      if (char in exceptions) return exceptions[char];
      if (/[A-Z]/.test(char)) return String.fromCodePoint(upper + char.charCodeAt(0) - 65);
      return /[a-z]/.test(char) && lower ? String.fromCodePoint(lower + char.charCodeAt(0) - 97) : char;
    });
    return mathml("mi", null, letters.join(""));
  };
}

function fraction(attributes, open, close) {
  return (reader) => {
    const over = mathml("mfrac", attributes, reader.argument(), reader.argument());
    return open ? mathml("mrow", null, mathml("mo", null, open), over, mathml("mo", null, close)) : over;
  };
}

const BLACKBOARD = alphabet(0x1d538, 0x1d552, { C: "ℂ", H: "ℍ", N: "ℕ", P: "ℙ", Q: "ℚ", R: "ℝ", Z: "ℤ", 1: "𝟙" });
const CONSTRUCTS = bare({
  frac: fraction(null),
  dfrac: fraction({ displaystyle: "true" }),
  cfrac: fraction({ displaystyle: "true" }),
  tfrac: fraction({ displaystyle: "false" }),
  binom: fraction({ linethickness: "0" }, "(", ")"),
  dbinom: fraction({ linethickness: "0", displaystyle: "true" }, "(", ")"),
  tbinom: fraction({ linethickness: "0" }, "(", ")"),
  sqrt: (reader) => {
    const degree = reader.peek() === "[" ? new TexReader(reader.raw("[", "]")) : null;
    const radicand = reader.argument();
    return degree
      ? mathml(
          "mroot",
          null,
          radicand,
          degree.rows(() => degree.done),
        )
      : mathml("msqrt", null, radicand);
  },
  boxed: (reader) => mathml("mrow", { class: "boxed" }, reader.argument()),
  overline: (reader) => mathml("mrow", { class: "overlined" }, reader.argument()),
  underline: (reader) => mathml("mrow", { class: "underlined" }, reader.argument()),
  underbrace: (reader) =>
    Object.assign(mathml("munder", null, reader.argument(), mathml("mo", { stretchy: "true" }, "⏟")), { limits: true }),
  fbox: (reader) => mathml("mrow", { class: "boxed" }, mathml("mtext", null, reader.raw("{", "}"))),
  mathbb: BLACKBOARD,
  mathds: BLACKBOARD,
  mathbf: alphabet(0x1d400, 0x1d41a, {}),
  boldsymbol: (reader) => mathml("mrow", { class: "bold" }, reader.argument()),
  bm: (reader) => mathml("mrow", { class: "bold" }, reader.argument()),
  bold: (reader) => mathml("mrow", { class: "bold" }, reader.argument()),
  mathop: (reader) => Object.assign(mathml("mrow", null, reader.argument()), { limits: true }),
  mathcal: alphabet(0x1d49c, 0, { B: "ℬ", E: "ℰ", F: "ℱ", H: "ℋ", I: "ℐ", L: "ℒ", M: "ℳ", R: "ℛ" }),
  mathfrak: alphabet(0x1d504, 0x1d51e, { C: "ℭ", H: "ℌ", I: "ℑ", R: "ℜ", Z: "ℨ" }),
  pmod: (reader) =>
    mathml(
      "mrow",
      null,
      reader.space(0.6),
      mathml("mtext", null, "(mod\u00a0"),
      reader.argument(),
      mathml("mtext", null, ")"),
    ),
  bmod: () => mathml("mo", { lspace: "0.22em", rspace: "0.22em" }, "mod"),
  mod: () => mathml("mo", { lspace: "0.4em", rspace: "0.3em" }, "mod"),
  not: (reader) => mathml("mo", null, `${reader.argument().textContent}\u0338`),
  overset: (reader) => over("mover", reader),
  stackrel: (reader) => over("mover", reader),
  underset: (reader) => over("munder", reader),
  phantom: (reader) => mathml("mphantom", null, reader.argument()),
  hphantom: (reader) => mathml("mphantom", null, reader.argument()),
  substack: (reader) => reader.argument(),
  label: (reader) => (reader.raw("{", "}"), mathml("mrow", null)),
  tag: (reader) => mathml("mtext", null, `\u2003(${reader.raw("{", "}")})`),
  begin: (reader) => reader.environment(),
  left: (reader) => {
    const open = reader.delimiter();
    const inner = reader.rows(() => reader.peek() === "\\right" || reader.done);
    reader.expect("\\right");
    return mathml("mrow", null, open, inner, reader.delimiter());
  },
});

function over(element, reader) {
  const mark = reader.argument();
  return mathml(element, null, reader.argument(), mark);
}
