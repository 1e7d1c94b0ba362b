// The run as a whole: its numbers with their intervals, its curves, its configuration; two runs beside each other.

const FIRST_CURVES =
  /^(eval\/accuracy|eval\/tool_rate|reward\/mean|accuracy\/mean|num_tool_calls\/mean|response_length\/mean|answered\/mean|loss|policy_loss|entropy|kl|grad_norm)(\/|$)/;

class RunView {
  constructor(store) {
    this.store = store;
    this.detail = el("div.detail.wide", { tabindex: "-1" }, el("p.hint", null, "reading…"));
    this.element = el("div.single", null, this.detail);
  }

  async show() {
    if (this.started) return;
    this.started = true;
    const names = this.store.index.runs.map((run) => run.name);
    const [facts, ...curves] = await Promise.all([
      this.store.block("facts"),
      ...names.map((_, k) => this.store.block(`curves-${k}`)),
    ]);
    replace(
      this.detail,
      facts.compared.length
        ? el(
            "section",
            null,
            el("h2", null, "B against A"),
            factTable(
              facts.compared.map((fact) => [fact.name, [fact.value], fact.about]),
              [""],
            ),
          )
        : null,
      el("section", null, el("h2", null, "Episodes"), this.statistics(facts.runs, names)),
      this.curves(curves, names),
      this.store.index.runs.map((run) =>
        run.config
          ? el(
              "details.config",
              null,
              el("summary", null, `configuration of ${run.name}`),
              el("pre.code", { tabindex: "0" }, run.config),
            )
          : null,
      ),
    );
  }

  statistics(runs, names) {
    const rows = [...new Set(runs.flatMap((facts) => facts.map((fact) => fact.name)))].map((name) => {
      const found = runs.map((facts) => facts.find((fact) => fact.name === name));
      return [name, found.map((fact) => fact?.value ?? "–"), found.length > 1 ? "" : found[0].about];
    });
    const heads = names.length > 1 ? names.map((name, k) => `${"AB"[k]}: ${name}`) : [""];
    return [
      el(
        "p.about",
        null,
        "Over the episodes of this page; intervals are 95 %, over problems. docs/statistics.md says what each number means.",
      ),
      factTable(rows, heads),
    ];
  }

  curves(curves, names) {
    const keys = [...new Set(curves.flatMap((one) => Object.keys(one)))].sort();
    if (!keys.length)
      return el("section", null, el("h2", null, "Curves"), el("p.quiet", null, "This run has no metrics.jsonl."));
    const grid = el("div.grid");
    const draw = (wanted) =>
      replace(
        grid,
        keys.filter(wanted).map((key) => this.curve(key, curves, names)),
      );
    const input = el("input", { type: "search", placeholder: "name of a metric", "aria-label": "search metrics" });
    const chosen = (key) => (input.value ? key.includes(input.value) : FIRST_CURVES.test(key));
    input.addEventListener("input", () => draw(chosen));
    const all = el("button.quiet", { type: "button", onclick: () => draw(() => true) }, `show all ${keys.length}`);
    draw(keys.some(chosen) ? chosen : () => true);
    const legend =
      names.length > 1
        ? el(
            "ul.legend",
            null,
            names.map((name, k) => el("li", null, el(`i.key.c${k}`), `${"AB"[k]}: ${name}`)),
          )
        : null;
    return el("section", null, el("h2", null, "Curves"), el("div.finder", null, input, all), legend, grid);
  }

  curve(key, curves, names) {
    const series = curves.map((one, k) => [names.length > 1 ? "AB"[k] : "", one[key] || []]);
    const place = el("div.place");
    return whenSeen(place, () => replace(place, lineChart(key, series)));
  }

  move() {}
  open() {}
  close() {}
  focusSearch() {
    this.detail.querySelector("input")?.focus();
  }
}

function factTable(rows, heads) {
  const explained = rows.some(([, , about]) => about);
  return el(
    "div.scroll",
    null,
    el(
      "table",
      null,
      el(
        "thead",
        { hidden: !heads.some(Boolean) },
        el(
          "tr",
          null,
          el("td"),
          heads.map((head) => el(head ? "th" : "td", head ? { scope: "col" } : null, head)),
          explained ? el("td") : null,
        ),
      ),
      el(
        "tbody",
        null,
        rows.map(([name, values, about]) =>
          el(
            "tr",
            null,
            el("th", { scope: "row" }, name),
            values.map((value) => el("td.value", null, value)),
            explained ? el("td.about", null, about) : null,
          ),
        ),
      ),
    ),
  );
}
