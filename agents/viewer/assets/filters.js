// Which episodes are listed, and in which order.

const ORDERS = {
  ticket: ["episode", (s, e) => e],
  problem: ["problem", (s, e) => s.episodes.problem[e]],
  reward: ["reward", (s, e) => s.episodes.reward[e]],
  outcome: ["outcome", (s, e) => s.outcome(e)],
  status: ["tool status", (s, e) => s.statusNames(e).join(" ") || null],
  calls: ["tool calls", (s, e) => s.episodes.calls[e]],
  tokens: ["sampled tokens", (s, e) => s.episodes.tokens[e]],
  version: ["policy version", (s, e) => s.episodes.version[e]],
};

class EpisodeFilters {
  constructor(store, onchange) {
    Object.assign(this, { store, onchange });
    this.chosen = { verdict: "", outcome: "", status: "", run: "", low: "", high: "" };
    this.order = "ticket";
    this.descending = false;
    const { id, question, answer } = store.problems;
    this.haystacks = id.map((name, p) => `${name}\n${question[p]}\n${answer[p]}`.toLowerCase());
    const open = matchMedia("(min-width: 900px)").matches;
    const fields = el("div.pickers", null, this.choices(), this.bounds(), this.ordering());
    this.element = el("details.more", { open }, el("summary", null, "filter and sort"), fields);
  }

  choices() {
    const { outcomes, statuses, runs } = this.store.index;
    const happened = new Set(this.store.episodes.outcome);
    const bits = this.store.episodes.statuses.reduce((all, some) => all | some, 0);
    const offer = (names) => names.map((name) => [name, words(name)]);
    const pick = (label, key, options) =>
      picker(label, [["", "any"], ...options], (value) => this.choose(key, value)).element;
    const runOptions = runs.map((run, k) => [String(k), run.name]);
    return [
      pick("verdict", "verdict", offer(["right", "wrong", "not judged"])),
      pick("outcome", "outcome", offer(outcomes.filter((_, k) => happened.has(k)))),
      pick("tool status", "status", offer(["no call", ...statuses.filter((_, k) => (bits >> k) & 1)])),
      runs.length > 1 ? pick("run", "run", runOptions) : null,
    ];
  }

  bounds() {
    const bound = (key, label) => {
      const input = el("input", { type: "number", step: "any", oninput: () => this.choose(key, input.value) });
      return el("label.picker", null, el("span", null, label), input);
    };
    return [bound("low", "reward from"), bound("high", "to")];
  }

  ordering() {
    const names = Object.entries(ORDERS).map(([key, [name]]) => [key, name]);
    const order = picker("sort by", names, (value) => this.sort(value, this.descending));
    const turn = () => this.sort(this.order, !this.descending);
    const attributes = { type: "button", "aria-pressed": "false", "aria-label": "descending", onclick: turn };
    this.direction = el("button.quiet", attributes, "↑");
    return el("div.ordering", null, order.element, this.direction);
  }

  choose(key, value) {
    this.chosen[key] = value;
    this.onchange();
  }

  sort(order, descending) {
    Object.assign(this, { order, descending });
    replace(this.direction, descending ? "↓" : "↑");
    this.direction.setAttribute("aria-pressed", String(descending));
    this.onchange();
  }

  // The episodes to list, with `text` in their problem or answer or as their number.
  items(text) {
    const found = Array.from({ length: this.store.size }, (_, e) => e).filter(
      (e) => this.holds(e) && this.says(e, text),
    );
    return sortBy(found, (e) => ORDERS[this.order][1](this.store, e), this.descending);
  }

  holds(e) {
    const { verdict, outcome, status, run, low, high } = this.chosen;
    const { episodes } = this.store;
    if (verdict && verdictOf(this.store, e)[2] !== verdict) return false;
    if (outcome && this.store.outcome(e) !== outcome) return false;
    if (status === "no call" ? episodes.calls[e] > 0 : status && !this.store.statusNames(e).includes(status))
      return false;
    if (run && String(episodes.run[e]) !== run) return false;
    const reward = episodes.reward[e];
    if ((low !== "" || high !== "") && reward === null) return false;
    return (low === "" || reward >= Number(low)) && (high === "" || reward <= Number(high));
  }

  says(e, text) {
    const { problem, answer, ticket } = this.store.episodes;
    if (!text || this.haystacks[problem[e]].includes(text)) return true;
    return answer[e].toLowerCase().includes(text) || String(ticket[e]) === text;
  }
}
