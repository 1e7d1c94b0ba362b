// The list of episodes, and the one that is open.

function verdictOf(store, e) {
  const verdict = store.episodes.verdict[e];
  if (store.failed(e) || verdict < 0) return ["none", "–", "not judged"];
  return verdict ? ["good", "✓", "right"] : ["bad", "✗", "wrong"];
}

class EpisodesView extends SplitView {
  constructor(store, go) {
    super(store, go, { name: "episode", plural: "episodes", search: "problem, question, answer, number" });
    this.layer = "role";
    this.tokens = false;
    this.filters = new EpisodeFilters(store, () => this.apply());
    this.side.prepend(el("div.controls", { role: "search" }, this.search, this.filters.element));
    this.apply();
  }

  apply() {
    this.setItems(this.filters.items(this.wanted), this.store.size);
  }

  row(e) {
    const { episodes } = this.store;
    const [state, sign, name] = verdictOf(this.store, e);
    const outcome = this.store.outcome(e);
    const statuses = this.store.statusNames(e);
    return [
      el(`span.sign.${state}`, { role: "img", "aria-label": name }, sign),
      el("span.question", null, inline(this.store.question(e))),
      el("span.reward", { title: "reward" }, signed(episodes.reward[e])),
      el(
        "span.under",
        null,
        this.store.index.runs.length > 1 ? el("b", null, "AB"[episodes.run[e]], " ") : null,
        `#${episodes.ticket[e]}`,
        outcome === "answered" ? ` · ${episodes.answer[e]}` : el("em", null, ` · ${words(outcome)}`),
        statuses.length ? ` · ${statuses.map(words).join(", ")}` : " · no call",
        ` · ${plural(episodes.tokens[e], "token")}`,
      ),
    ];
  }

  async show(e) {
    if (!(e >= 0 && e < this.store.size)) return;
    this.shown = e;
    this.list.show(e);
    const [row, vocabulary] = await Promise.all([this.store.episode(e), this.store.vocabulary(e)]);
    if (this.shown !== e) return; // another one was chosen in the meantime
    this.body = el("div.body");
    this.content = { row, vocabulary };
    this.setDetail(episodeHead(this.store, e, row), this.tools(e), this.body);
    this.drawBody();
  }

  tools(e) {
    const problem = this.store.episodes.problem[e];
    const choice = (tokens, text) =>
      el("button.choice", { type: "button", onclick: () => this.setTokens(tokens) }, text);
    this.choices = [choice(false, "Transcript"), choice(true, "Tokens")];
    this.layers = picker("colour by", Object.entries(LAYERS), (value) => this.setLayer(value));
    return el(
      "div.tools",
      null,
      el("div.choices", { role: "group", "aria-label": "view" }, this.choices),
      this.layers.element,
      el(
        "a.push",
        { href: `#problem=${problem}` },
        `all ${this.store.byProblem[problem].length} samples of this problem`,
      ),
    );
  }

  drawBody() {
    this.choices.forEach((button, k) => button.setAttribute("aria-pressed", String(Boolean(k) === this.tokens)));
    this.layers.element.hidden = !this.tokens;
    if (!this.tokens) {
      replace(this.body, showTranscript(this.content.row));
      return;
    }
    this.tokenView = new TokenView(this.store, this.shown, this.content.row, this.content.vocabulary);
    replace(this.body, this.tokenView.legend, this.tokenView.box, this.tokenView.readout);
    this.setLayer(this.layer);
  }

  setTokens(tokens) {
    if (!this.content) return;
    this.tokens = tokens;
    this.drawBody();
  }

  toggleTokens() {
    this.setTokens(!this.tokens);
  }

  nextLayer() {
    const names = Object.keys(LAYERS);
    this.layer = this.tokens ? names[(names.indexOf(this.layer) + 1) % names.length] : this.layer;
    if (this.tokens) this.setLayer(this.layer);
    else this.setTokens(true);
  }

  setLayer(layer) {
    this.layer = layer;
    this.layers.select.value = layer;
    this.tokenView.setLayer(layer);
  }

  showGroup() {
    if (this.shown !== undefined) this.go(`problem=${this.store.episodes.problem[this.shown]}`);
  }
}

// What is known about an episode, above its text.
function episodeHead(store, e, row) {
  const { episodes, problems } = store;
  const problem = episodes.problem[e];
  const [state, sign, name] = verdictOf(store, e);
  const badge = (text, kind = "") => el(`span.badge${kind && `.${kind}`}`, null, text);
  const parts = row.parts.map(([part, raw, weight]) =>
    badge(`${part} ${signed(raw)}${weight === 1 ? "" : ` × ${number(weight)}`}`),
  );
  return el(
    "header.head",
    null,
    el("h2", null, problems.id[problem]),
    el(
      "p.badges",
      null,
      badge(`${sign} ${name}`, state === "none" ? "" : state),
      row.verdict ? badge(`answer ${episodes.answer[e] || "none"}`) : null,
      badge(`gold ${problems.answer[problem]}`),
      row.verdict && row.verdict[2] ? badge(`verdict: ${words(row.verdict[2])}`) : null,
      badge(words(store.outcome(e)), store.failed(e) ? "bad" : ""),
      badge(`reward ${signed(episodes.reward[e])}`),
      parts.length > 1 ? parts : null,
      problems.family[problem] ? badge(problems.family[problem]) : null,
    ),
    el(
      "p.quiet",
      null,
      store.index.runs.length > 1 ? `run ${"AB"[episodes.run[e]]} (${store.index.runs[episodes.run[e]].name}), ` : "",
      `episode ${episodes.ticket[e]}, group ${episodes.group[e]}, sample ${episodes.sample[e]}; `,
      `${plural(episodes.turns[e], "turn")}, ${plural(episodes.calls[e], "call")}, `,
      plural(episodes.tokens[e], "sampled token"),
      episodes.version[e] >= 0 ? `, policy version ${episodes.version[e]}` : "",
    ),
  );
}
