// An episode as the policy saw it: one element for each token, coloured by who wrote it, how likely it was, whether the
// episode did better than its group, or which version of the weights sampled it.

const LAYERS = {
  role: "who wrote it",
  logprob: "log-probability",
  advantage: "advantage of the episode",
  version: "policy version",
};
const LIKELY = [0.99, 0.9, 0.5, 0.1];
const NUM_COLOURS = 5;
const ROLE_NAMES = { prompt: "prompt", assistant: "policy", tool: "interpreter" };

function expand(runs) {
  return runs.flatMap(([value, times]) => new Array(times).fill(value));
}

class TokenView {
  constructor(store, e, row, vocabulary) {
    const { ids, texts, spans, mask, versions, logprobs } = row.tokens;
    Object.assign(this, { store, e, ids, texts, spans, logprobs, vocabulary });
    this.mask = expand(mask);
    this.versions = expand(versions);
    this.known = [...new Set(this.versions.filter((version) => version >= 0))].sort((a, b) => a - b);
    this.readout = el("p.readout", { role: "status" }, "Point at a token, or move with the arrow keys.");
    this.legend = el("ul.legend");
    this.box = el("div.tokens", { tabindex: "0", role: "group", "aria-label": "tokens", "data-layer": "role" });
    this.cursor = -1;
    this.fillBox();
    this.box.addEventListener("pointerover", (event) => this.point(event.target.closest(".t")));
    this.box.addEventListener("keydown", (event) => this.key(event));
  }

  fillBox() {
    for (const [role, turn, start, end] of this.spans) {
      const group = el(`span.span.${role}`, null);
      for (let k = start; k < end; k++) group.append(this.token(k, role));
      this.box.append(group);
    }
    this.elements = [...this.box.querySelectorAll(".t")];
  }

  text(k) {
    return this.texts[k] ?? (this.vocabulary ? this.vocabulary[this.ids[k]] : `⟨${this.ids[k]}⟩`);
  }

  token(k, role) {
    const text = this.text(k);
    const classes = ["t", this.mask[k] ? "acted" : "given"];
    if (this.mask[k] && this.logprobs[k] !== null)
      classes.push(`q${LIKELY.filter((p) => Math.exp(this.logprobs[k]) < p).length}`);
    if (this.versions[k] >= 0) classes.push(`v${this.known.indexOf(this.versions[k]) % NUM_COLOURS}`);
    const signed =
      text === ""
        ? [el("i.part")]
        : text
            .split(/(\n|\t)/)
            .map((piece) => (piece === "\n" ? [el("i.nl"), "\n"] : piece === "\t" ? [el("i.tab"), "\t"] : piece));
    return el(`span.${classes.join(".")}`, { "data-k": k }, signed);
  }

  setLayer(layer) {
    this.box.dataset.layer = layer;
    this.box.classList.remove("better", "worse", "even");
    const advantage = this.store.episodes.advantage[this.e];
    if (advantage !== null) this.box.classList.add(advantage > 0 ? "better" : advantage < 0 ? "worse" : "even");
    replace(
      this.legend,
      this.legendOf(layer, advantage).map(([classes, text]) => el("li", null, el(`span.t.${classes}`, null, text))),
    );
    this.legend.dataset.layer = layer;
    this.legend.className = this.box.className.replace("tokens", "legend");
  }

  legendOf(layer, advantage) {
    const given = [["given.plain", "not sampled: no loss"]];
    if (layer === "logprob")
      return [
        ...[`p ≥ ${LIKELY[0]}`, ...LIKELY.map((p) => `p < ${p}`)].map((text, k) => [`acted.q${k}`, text]),
        ...given,
      ];
    if (layer === "version")
      return [...this.known.map((version, k) => [`acted.v${k % NUM_COLOURS}`, `version ${version}`]), ...given];
    if (layer === "advantage") {
      if (advantage === null) return [["plain", "not scored: no advantage"]];
      return [["acted", `reward minus the mean of its group: ${signed(advantage)}`], ...given];
    }
    return [
      ["given.prompt", "prompt"],
      ["acted", "policy: action mask 1"],
      ["given.tool", "interpreter: action mask 0"],
    ];
  }

  point(token) {
    if (!token) return;
    this.elements[this.cursor]?.classList.remove("here");
    token.classList.add("here");
    const k = Number(token.dataset.k);
    this.cursor = k;
    const span = this.spans.find(([, , start, end]) => k >= start && k < end);
    const logprob = this.logprobs[k];
    const facts = [
      `token ${k}`,
      `id ${this.ids[k]}`,
      JSON.stringify(this.text(k)),
      `${ROLE_NAMES[span[0]]}, turn ${span[1] + 1}`,
      this.mask[k] ? "sampled" : "not sampled",
      logprob === null ? null : `log-prob ${logprob.toFixed(4)} (p ${Math.exp(logprob).toPrecision(3)})`,
      this.versions[k] < 0 ? null : `version ${this.versions[k]}`,
    ];
    replace(this.readout, facts.filter(Boolean).join(" · "));
  }

  key(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const next = Math.min(Math.max(this.cursor + step, 0), this.elements.length - 1);
    this.point(this.elements[next]);
    this.elements[next].scrollIntoView({ block: "nearest" });
  }
}
