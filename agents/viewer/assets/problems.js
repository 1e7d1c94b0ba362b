// All samples of a problem side by side, of both runs where there are two.

class ProblemsView extends SplitView {
  constructor(store, go) {
    super(store, go, { name: "problem", plural: "problems", search: "problem, question, answer" });
    this.two = store.index.runs.length > 1;
    this.averages = store.problems.id.map((_, p) => store.index.runs.map((_, run) => store.average(p, run)));
    this.orders = {
      ...(this.two ? { change: ["largest change", (p) => this.change(p), true] } : {}),
      order: ["first seen", (p) => p, false],
      right: ["share right", (p) => this.averages[p][0]?.right ?? null, false],
      reward: ["mean reward", (p) => this.averages[p][0]?.reward ?? null, false],
      mixed: ["most divided", (p) => this.divided(p), true],
      num: ["most samples", (p) => store.byProblem[p].length, true],
    };
    this.order = Object.keys(this.orders)[0];
    const names = Object.entries(this.orders).map(([key, [name]]) => [key, name]);
    const order = picker("sort by", names, (value) => this.sort(value));
    this.side.prepend(el("div.controls", { role: "search" }, this.search, el("div.pickers", null, order.element)));
    this.apply();
  }

  change(p) {
    const [a, b] = this.averages[p];
    return a && b ? Math.abs(b.right - a.right) : null;
  }

  divided(p) {
    const first = this.averages[p][0];
    return first ? first.right * (1 - first.right) : null;
  }

  sort(order) {
    this.order = order;
    this.apply();
  }

  apply() {
    const { id, question, answer } = this.store.problems;
    const says = (p) => `${id[p]}\n${question[p]}\n${answer[p]}`.toLowerCase().includes(this.wanted);
    const [, key, descending] = this.orders[this.order];
    const found = Array.from(id.keys()).filter((p) => !this.wanted || says(p));
    this.setItems(sortBy(found, key, descending), id.length);
  }

  row(p) {
    const shares = this.averages[p].map((average) => (average ? percent(average.right) : "–"));
    return [
      el("span.sign", { "aria-hidden": "true" }, this.averages[p].map(meter)),
      el("span.question", null, inline(this.store.problems.question[p])),
      el("span.reward", { title: "share of right answers" }, shares.join(" → ")),
      el(
        "span.under",
        null,
        this.store.problems.id[p] === this.store.problems.question[p] ? "" : `${this.store.problems.id[p]} · `,
        `gold ${this.store.problems.answer[p]} · ${plural(this.store.byProblem[p].length, "sample")}`,
      ),
    ];
  }

  show(p) {
    const { id, question, answer } = this.store.problems;
    if (!(p >= 0 && p < id.length)) return;
    this.list.show(p);
    const head = el(
      "header.head",
      null,
      el("h2", null, id[p]),
      question[p] === id[p] ? null : el("div.prose", null, inline(question[p])),
      el("p.badges", null, el("span.badge", null, `gold ${answer[p]}`)),
    );
    this.setDetail(
      head,
      this.store.index.runs.map((_, run) => this.samplesOf(p, run)),
    );
  }

  samplesOf(p, run) {
    const { name } = this.store.index.runs[run];
    const { episodes, byProblem } = this.store;
    const title = this.two ? el("h3", null, `${"AB"[run]}: ${name}`) : null;
    const found = byProblem[p].filter((e) => episodes.run[e] === run);
    if (!found.length) return [title, el("p.quiet", null, "no samples")];
    const ordered = sortBy(found, (e) => episodes.sample[e], false);
    const attributes = { tabindex: "0", role: "group", "aria-label": `samples of ${name}` };
    const columns = ordered.map((e) => this.sample(e));
    return [title, this.summary(p, run), el("div.samples", attributes, columns)];
  }

  // The sample of the first run that one of the second run is set against.
  twin(e) {
    const { run, sample, problem } = this.store.episodes;
    return run[e] === 0
      ? undefined
      : this.store.byProblem[problem[e]].find((other) => run[other] === 0 && sample[other] === sample[e]);
  }

  summary(p, run) {
    const average = this.averages[p][run];
    if (!average) return el("p.quiet", null, "no scored samples");
    return el(
      "p.quiet",
      null,
      `${percent(average.right)} of ${plural(average.num, "scored sample")} right`,
      average.reward === null ? "" : `, mean reward ${signed(average.reward)}`,
    );
  }

  sample(e) {
    const { episodes } = this.store;
    const [state, sign, name] = verdictOf(this.store, e);
    const head = el(
      "p.badges",
      null,
      el("a", { href: `#episode=${e}` }, `sample ${episodes.sample[e]}`),
      el(`span.badge${state === "none" ? "" : `.${state}`}`, null, `${sign} ${name}`),
      episodes.answer[e] ? el("span.badge", null, episodes.answer[e]) : null,
      this.store.outcome(e) === "answered" ? null : el("span.badge", null, words(this.store.outcome(e))),
      el("span.badge", null, `reward ${signed(episodes.reward[e])}`),
    );
    const body = el("div.body", null, el("p.quiet", null, "…"));
    whenSeen(body, async () => {
      const twin = this.twin(e);
      const [row, other] = await Promise.all([
        this.store.episode(e),
        twin === undefined ? null : this.store.episode(twin),
      ]);
      const blocks = showTranscript(row).filter((block) => !block.classList.contains("prompt"));
      replace(body, other ? showDifference(other, row, episodes.sample[e]) : null, blocks);
    });
    return el("article.sample", { "aria-label": `sample ${episodes.sample[e]}, ${name}` }, head, body);
  }
}

// Where two samples part: the last words that they share, and how each goes on.
function showDifference(first, second, sample) {
  const turn = second.turns.findIndex((text, k) => text !== first.turns[k]);
  if (turn < 0 && first.turns.length === second.turns.length)
    return el("p.parting", null, `writes the same as sample ${sample} of A`);
  const k = turn < 0 ? second.turns.length : turn;
  const [one, two] = [first.turns[k] ?? "", second.turns[k] ?? ""];
  let same = 0;
  while (same < one.length && one[same] === two[same]) same++;
  const line = (text) => text.replaceAll("\n", "↵");
  const quote = (text) =>
    line(text.length > same + 28 ? `${text.slice(same, same + 28)}…` : text.slice(same)) || "nothing more";
  const shared = line(one.slice(Math.max(0, same - 28), same));
  return el(
    "p.parting",
    null,
    `parts from sample ${sample} of A in turn ${k + 1}`,
    shared ? [", after ", el("code", null, shared)] : null,
    ": there ",
    el("code", null, quote(one)),
    ", here ",
    el("code", null, quote(two)),
  );
}

// A small bar: how much of the problem is solved.
function meter(average) {
  const share = average ? average.right : 0;
  const bar = el("span.meter", null, el("span.filled"));
  bar.firstChild.style.setProperty("height", `${100 * share}%`);
  return bar;
}
