// Starts the page: the bar on top, the three views, the address, and the keys.

const KEYS = [
  ["j, k", "next and previous in the list"],
  ["Enter", "go into what is selected"],
  ["Esc", "back to the list"],
  ["/", "search"],
  ["t", "transcript or tokens"],
  ["c", "next colouring of the tokens"],
  ["g", "all samples of the episode's problem"],
  ["1, 2, 3", "episodes, problems, run"],
  ["?", "this help"],
];

class App {
  constructor(store) {
    this.store = store;
    const go = (address, quietly) => this.go(address, quietly);
    this.makers = {
      episodes: () => new EpisodesView(store, go),
      problems: () => new ProblemsView(store, go),
      run: () => new RunView(store),
    };
    this.views = {};
    this.tabs = Object.keys(this.makers).map((name) =>
      el("a.tab", { href: `#${name}` }, name[0].toUpperCase() + name.slice(1)),
    );
    this.help = helpDialog();
    this.main = el("main");
    const title = store.index.runs
      .map((run, k) => (store.index.runs.length > 1 ? `${"AB"[k]} ${run.name}` : run.name))
      .join("  ·  ");
    const helper = el(
      "button.quiet",
      { type: "button", "aria-label": "keyboard help", onclick: () => this.help.showModal() },
      "?",
    );
    const bar = el("header.bar", null, el("h1", null, title), el("nav", { "aria-label": "views" }, this.tabs), helper);
    replace(document.getElementById("app"), bar, this.main, this.help);
    addEventListener("hashchange", () => this.route());
    addEventListener("popstate", () => this.route());
    addEventListener("keydown", (event) => this.key(event));
    this.route();
  }

  // Moving through a list replaces the address, so that "back" leaves the list.
  go(address, quietly) {
    if (quietly) history.replaceState(null, "", `#${address}`);
    else history.pushState(null, "", `#${address}`);
    this.route();
  }

  route() {
    const [name, value] = location.hash.slice(1).split("=");
    const view =
      { episode: "episodes", problem: "problems" }[name] || (Object.hasOwn(this.makers, name) ? name : "episodes");
    this.views[view] ??= this.makers[view]();
    if (this.view !== this.views[view]) {
      this.view = this.views[view];
      replace(this.main, this.view.element);
      this.tabs.forEach((tab) =>
        tab.hash === `#${view}` ? tab.setAttribute("aria-current", "page") : tab.removeAttribute("aria-current"),
      );
      this.view.list?.draw();
      if (value !== undefined) this.view.element.classList.add("open");
    }
    if (view === "run") this.view.show();
    else if (value !== undefined) this.view.show(Number(value));
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || this.help.open) return;
    const typing = event.target.closest("input, select, textarea");
    if (typing && event.key !== "Escape") return;
    const actions = {
      j: () => this.view.move(1),
      k: () => this.view.move(-1),
      Enter: () => (event.target.closest("a, button, summary, .detail") ? null : this.view.open()),
      Escape: () => this.view.close(),
      "/": () => this.view.focusSearch(),
      t: () => this.view.toggleTokens?.(),
      c: () => this.view.nextLayer?.(),
      g: () => this.view.showGroup?.(),
      1: () => this.go("episodes"),
      2: () => this.go("problems"),
      3: () => this.go("run"),
      "?": () => this.help.showModal(),
    };
    if (!(event.key in actions)) return;
    if (event.key !== "Enter") event.preventDefault();
    actions[event.key]();
  }
}

function helpDialog() {
  const rows = KEYS.map(([key, text]) => [
    el(
      "dt",
      null,
      key.split(", ").map((one, k) => [k ? " " : "", el("kbd", null, one)]),
    ),
    el("dd", null, text),
  ]);
  const dialog = el(
    "dialog",
    { "aria-label": "keyboard help" },
    el("h2", null, "Keys"),
    el("dl.keys", null, rows),
    el("form", { method: "dialog" }, el("button.choice", null, "close")),
  );
  return dialog;
}

async function start() {
  const store = new Store(await unpack("index"));
  window.view = new App(store);
  document.documentElement.dataset.ready = "";
}

start().catch((error) => {
  replace(
    document.getElementById("app"),
    el(
      "p.hint",
      { role: "alert" },
      `This page could not be unpacked: ${error.message}. It needs a browser from 2023 or later.`,
    ),
  );
});
