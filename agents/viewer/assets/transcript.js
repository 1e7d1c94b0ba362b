// An episode as people read it: prompt, turns with formulas and code, programs and what they printed.

const INLINE = new RegExp(
  [
    /\\\[(?<square>[^]{1,4000}?)\\\]/,
    /\\\((?<round>[^]{1,4000}?)\\\)/,
    /\$\$(?<double>[^]{1,4000}?)\$\$/,
    /(?<![\\$])\$(?<single>(?!\s)(?:\\.|[^$\\\n]){1,1000}?(?<!\s))\$(?![\d$])/,
    /(?<boxed>\\boxed\s*\{(?:[^{}]|\{(?:[^{}]|\{(?:[^{}]|\{[^{}]{0,200}\}){0,200}\}){0,400}\}){0,1000}\})/,
    /(?<display>\\begin\{(?<name>align\*?|aligned|equation\*?|cases|[pbv]matrix|gather\*?)\}[^]{1,4000}?\\end\{\k<name>\})/,
    /`(?<code>[^`\n]{1,400})`/,
    /\*\*(?<bold>[^*\n]{1,400})\*\*/,
  ]
    .map((part) => part.source)
    .join("|"),
  "g",
);
const FENCE = /^[ \t]*```[ \t]*(\w*)[^\n]*\n([^]*?)(?:^[ \t]*```[ \t]*$|(?![^]))/gm;

// Prose with code blocks, formulas, inline code and bold; everything else stays as it was written.
function prose(text) {
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(FENCE)) {
    parts.push(...inline(text.slice(end, match.index)));
    parts.push(codeBlock(match[2].replace(/\n$/, ""), /^(py|python\d?|)$/i.test(match[1])));
    end = match.index + match[0].length;
    if (text[end] === "\n") end++;
  }
  parts.push(...inline(text.slice(end)));
  return parts;
}

function inline(text) {
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(INLINE)) {
    const element = inlineElement(match);
    const isBlock = element.getAttribute("display") === "block"; // starts and ends a line by itself
    const before = text.slice(end, match.index);
    parts.push(isBlock ? before.replace(/\n$/, "") : before, element);
    end = match.index + match[0].length;
    if (isBlock && text[end] === "\n") end++;
  }
  parts.push(text.slice(end));
  return parts;
}

function inlineElement(match) {
  const { square, round, double, single, boxed, display, code, bold } = match.groups;
  if (code !== undefined) return el("code", null, code);
  if (bold !== undefined) return el("b", null, inline(bold));
  const tex = square ?? round ?? double ?? single ?? boxed ?? display;
  const isDisplay = (square ?? double ?? display) !== undefined;
  return renderTex(tex, isDisplay) || el("code.tex", { title: "formula, as written" }, match[0]);
}

function codeBlock(source, isPython) {
  return el("pre.code", { tabindex: "0" }, el("code", null, isPython ? highlightPython(source) : source));
}

function showTranscript(row) {
  const blocks = row.prompt.map(([role, text]) =>
    el("section.block.prompt", null, el("h3.role", null, role), el("div.prose", null, inline(text))),
  );
  row.turns.forEach((text, turn) => {
    const calls = row.calls.filter((call) => call.turn === turn);
    blocks.push(
      el("section.block.model", null, el("h3.role", null, `model, turn ${turn + 1}`), turnParts(text, calls)),
    );
  });
  return blocks;
}

// Each call stands where the model wrote it; without that place, as in files of older versions, at the end of its turn.
function turnParts(text, calls) {
  const parts = [];
  const characters = [...text]; // positions count characters, not UTF-16 units
  let end = 0;
  for (const call of [...calls].sort((a, b) => a.span[0] - b.span[0])) {
    const [start, stop] = call.span;
    const placed = stop > start && start >= end;
    if (placed) parts.push(proseBlock(characters.slice(end, start).join("")));
    else if (stop <= start) parts.push(proseBlock(characters.slice(end).join("")));
    parts.push(
      showCall(call, placed ? characters.slice(start, stop).join("") : "", placed || !text.includes(call.code)),
    );
    end = placed ? stop : Math.max(end, characters.length);
  }
  parts.push(proseBlock(characters.slice(end).join("")));
  return parts;
}

function proseBlock(text) {
  return text.trim() ? el("div.prose", null, prose(text.replace(/^\n+|\s+$/g, ""))) : null;
}

function showCall(call, written, withCode) {
  const state = call.status === "ok" ? "good" : "bad";
  const { code, ...others } = { code: null, ...call.arguments };
  const shown = call.code ? withCode && codeBlock(call.code, true) : written ? codeBlock(written, false) : null;
  return el(
    "div.call",
    null,
    el(
      "p.caption",
      null,
      el("span.badge.tool", null, call.name || "call"),
      el(`span.badge.${state}`, null, words(call.status)),
      call.seconds ? el("span.time", null, seconds(call.seconds)) : null,
    ),
    shown,
    Object.keys(others).length ? codeBlock(JSON.stringify(others, null, 1), false) : null,
    call.text
      ? el("pre.output", { tabindex: "0", "aria-label": "tool output" }, call.text)
      : el("p.quiet", null, "no output"),
  );
}

function seconds(value) {
  return value < 1 ? `${Math.max(1, Math.round(1000 * value))} ms` : `${value.toFixed(1)} s`;
}
